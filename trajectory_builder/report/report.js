'use strict';
(() => {
  const walks = [...document.querySelectorAll('.walk')];
  const byId = (id) => document.getElementById(id);

  function sortable(table) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener('click', () => {
        const up = head.getAttribute('aria-sort') !== 'ascending';
        for (const other of head.parentNode.cells) other.removeAttribute('aria-sort');
        head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
        const key = (row) => {
          const cell = row.cells[column];
          return 'value' in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
        };
        const order = (a, b) =>
          typeof a === 'number' ? a - b : a.localeCompare(b, undefined, { numeric: true });
        const rows = [...body.rows].sort((a, b) => (up ? 1 : -1) * order(key(a), key(b)));
        body.append(...rows);
      });
    });
  }
  document.querySelectorAll('table.sortable').forEach(sortable);

  if (!walks.length) return;
  const which = byId('which');
  const level = byId('level');
  const play = byId('play');
  const compare = byId('compare');
  let timer = 0;

  const points = () => [...walks[which.value].querySelectorAll('.points > li')];

  function show() {
    const all = points();
    const at = compare.getAttribute('aria-pressed') === 'true' ? 0 : Number(level.value);
    walks.forEach((walk, i) => walk.classList.toggle('on', i === Number(which.value)));
    all.forEach((point, i) => point.classList.toggle('on', i === at));
    byId('said').value = all[at].dataset.said;
    level.setAttribute('aria-valuetext', all[Number(level.value)].dataset.said);
    byId('announce').textContent = timer ? '' : all[at].dataset.said;
  }

  function choose(index, at) {
    which.value = String((index + walks.length) % walks.length);
    level.max = String(points().length - 1);
    level.value = String(Math.min(at, Number(level.max)));
    press(compare, false);
    show();
  }

  function press(button, on) {
    button.setAttribute('aria-pressed', String(on));
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    press(play, false);
    play.textContent = 'Play';
  }

  which.addEventListener('change', () => choose(Number(which.value), Number(level.max)));
  level.addEventListener('input', () => {
    stop();
    press(compare, false);
    show();
  });
  document.querySelectorAll('[data-turn]').forEach((button) =>
    button.addEventListener('click', () =>
      choose(Number(which.value) + Number(button.dataset.turn), Number(level.max) + 99)));
  compare.addEventListener('click', () => {
    stop();
    press(compare, compare.getAttribute('aria-pressed') !== 'true');
    show();
  });
  play.addEventListener('click', () => {
    if (timer) {
      stop();
      show();
      return;
    }
    press(play, true);
    press(compare, false);
    play.textContent = 'Stop';
    timer = setInterval(() => {
      level.value = String((Number(level.value) + 1) % (Number(level.max) + 1));
      show();
    }, 700);
  });

  document.documentElement.classList.add('js');
  document.querySelector('.controls').hidden = false;
  const sizes = walks.map((walk) => walk.querySelectorAll('.points > li').length);
  choose(sizes.indexOf(Math.max(...sizes)), 99);
})();
