// The page's own parts: choosing a photo, the slider, the magnifier, the way along a trajectory.
// The photo stays in the browser. Each restoration sends it anew, since the server keeps nothing.
(() => {
  const MAX_BYTES = __MAX_BYTES__;
  const state = { photo: null };

  const within = (target, selector) => target instanceof Element ? target.closest(selector) : null;
  const press = (id) => {
    const found = document.getElementById(id);
    (found.matches("button") ? found : found.querySelector("button")).click();
  };

  function take(file) {
    state.photo = file;
    document.getElementById("fd-chosen").textContent = file.name;
    press("fd-restore");
  }

  // Sends the photo; returns its path on the server, and the sentence that says why there is none.
  async function send() {
    if (!state.photo) return ["", "Choose a photo first."];
    if (state.photo.size > MAX_BYTES) {
      return ["", `The file has more than ${MAX_BYTES >> 20} MB, which this page does not take.`];
    }
    const form = new FormData();
    form.append("files", state.photo, state.photo.name);
    const config = window.gradio_config;
    try {
      const address = `${config.root || ""}${config.api_prefix || "/gradio_api"}/upload`;
      const answer = await fetch(address, { method: "POST", body: form });
      if (!answer.ok) return ["", `The server did not take the file (${answer.status}).`];
      const [path] = await answer.json();
      return [path, ""];
    } catch (error) {
      return ["", "The server does not answer."];
    }
  }
  window.fidediff = { send };

  document.addEventListener("change", (event) => {
    if (event.target.id === "fd-file" && event.target.files.length) {
      take(event.target.files[0]);
      event.target.value = ""; // the same file can be chosen again
    }
    const view = within(event.target, ".fd-view");
    if (view && event.target.matches(".fd-show-kernels")) {
      view.querySelector(".fd-kernels").hidden = !event.target.checked;
    }
    if (view && event.target.matches(".fd-magnify")) {
      const stage = view.querySelector(".fd-stage"), box = stage.getBoundingClientRect();
      if (event.target.checked) magnify(stage, box.width / 2, box.height / 2);
      else stage.querySelector(".fd-lens").hidden = true;
    }
  });

  document.addEventListener("click", async (event) => {
    const example = within(event.target, ".fd-example");
    if (!example) return;
    const content = await (await fetch(example.querySelector("img").src)).blob();
    take(new File([content], example.dataset.name, { type: content.type }));
  });

  document.addEventListener("paste", (event) => {
    const file = [...(event.clipboardData?.files || [])][0];
    if (file) take(file);
  });
  for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      document.getElementById("fd-drop").classList.toggle("fd-over", kind === "dragover");
      if (kind === "drop" && event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
    });
  }

  document.addEventListener("input", (event) => {
    if (event.target.matches(".fd-split")) split(within(event.target, ".fd-view"), event.target.value);
    if (event.target.matches(".fd-point")) step(within(event.target, ".fd-walk"), event.target.value);
  });

  function split(view, percent) {
    view.querySelector(".fd-stage").style.setProperty("--fd-split", `${percent}%`);
  }

  function step(walk, place) {
    walk.querySelectorAll(".fd-step").forEach((element, rank) => {
      element.hidden = rank !== Number(place);
      if (!element.hidden) walk.querySelector("output").textContent = element.dataset.n;
    });
  }

  const dragged = (event) => {
    const stage = within(event.target, ".fd-stage");
    if (!stage) return;
    const box = stage.getBoundingClientRect(), view = stage.closest(".fd-view");
    const x = event.clientX - box.left, y = event.clientY - box.top;
    if (view.querySelector(".fd-magnify").checked) magnify(stage, x, y);
    else if (event.buttons || event.type === "pointerdown") {
      const percent = Math.min(100, Math.max(0, 100 * x / box.width));
      view.querySelector(".fd-split").value = percent;
      split(view, percent);
    }
  };
  document.addEventListener("pointerdown", dragged);
  document.addEventListener("pointermove", dragged);

  // Both pictures round one place, one pixel of the photo on one pixel of the screen.
  function magnify(stage, x, y) {
    const lens = stage.querySelector(".fd-lens"), box = stage.getBoundingClientRect();
    const scale = window.devicePixelRatio || 1;
    lens.hidden = false;
    const images = [stage.querySelector(".fd-before"), stage.querySelector(".fd-after")];
    lens.querySelectorAll("i").forEach((pane, which) => {
      const image = images[which];
      const wide = image.naturalWidth / scale, high = image.naturalHeight / scale;
      pane.style.backgroundImage = `url("${image.src}")`;
      pane.style.backgroundSize = `${wide}px ${high}px`;
      const left = pane.clientWidth / 2 - x / box.width * wide;
      const top = pane.clientHeight / 2 - y / box.height * high;
      pane.style.backgroundPosition = `${left}px ${top}px`;
    });
    const fit = (at, length, room) => Math.min(Math.max(0, at - length / 2), Math.max(0, room - length));
    lens.style.left = `${fit(x, lens.offsetWidth, box.width)}px`;
    lens.style.top = `${fit(y, lens.offsetHeight, box.height)}px`;
  }
})();
