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

  // The table of all pairs: columns of numbers and names, filtered and sorted as row numbers.
  function finder() {
    const data = JSON.parse(byId('find-data').textContent);
    const perPage = 100;
    const count = data.n.length;
    const head = byId('find-table').tHead.rows[0];
    const body = byId('find-table').tBodies[0];
    const ranges = [...document.querySelectorAll('[data-range]')];
    const nn = (row) => String(data.n[row] ?? 0).padStart(2, '0');
    const trajectory = (row) => data.trajectories[data.trajectory[row]];
    const value = {
      id: (row) => data.ids[row] ?? `${trajectory(row)}/n${nn(row)}`,
      split: (row) => data.split.names[data.split.codes[row]],
      clip: (row) => data.clip.names[data.clip.codes[row]],
    };
    for (const key of ['n', 't', 'motion', 'step', 'sharpness', 'blur', 'size']) {
      value[key] = (row) => data[key][row];
    }
    const files = {
      sharp: (row) => data.sharps[row] ?? `sharp/${trajectory(row)}.png`,
      blur: (row) => data.blurs[row] ?? `blur/${trajectory(row)}_n${nn(row)}.png`,
    };
    let found = [];
    let page = 0;
    let sort = { key: '', up: true };

    function options(id, values) {
      for (const one of values) byId(id).add(new Option(one, one));
    }
    options('find-split', data.split.names);
    options('find-clip', [...new Set(data.clip.names)].sort());
    options('find-n', [...new Set(data.n)].filter((n) => n !== null).sort((a, b) => a - b));

    function prefix(row) {
      let url = '';
      for (const [start, before] of data.folders) if (start <= row) url = before;
      return url;
    }

    function search() {
      const words = byId('find').value.toLowerCase().split(/\s+/).filter(Boolean);
      const same = ['split', 'clip', 'n'].map((key) => [key, byId(`find-${key}`).value]);
      const wanted = same.filter(([, text]) => text !== '');
      const limits = ranges.map((one) => {
        const ends = [...one.querySelectorAll('input')].map((input) => input.value);
        return [one.dataset.range, ends[0], ends[1]];
      }).filter(([, from, to]) => from !== '' || to !== '');
      found = [];
      for (let row = 0; row < count; row += 1) {
        if (!wanted.every(([key, text]) => String(value[key](row)) === text)) continue;
        if (!limits.every(([key, from, to]) => {
          const number = value[key](row);
          return number !== null && (from === '' || number >= Number(from))
            && (to === '' || number <= Number(to));
        })) continue;
        if (words.length) {
          const name = value.id(row).toLowerCase();
          if (!words.every((word) => name.includes(word))) continue;
        }
        found.push(row);
      }
      order();
    }

    function order() {
      const { key, up } = sort;
      if (key) {
        const numbers = typeof value[key](0) !== 'string';
        const sign = up ? 1 : -1;
        const keys = new Map(found.map((row) => [row, value[key](row)]));
        found.sort((a, b) => {
          const [one, other] = [keys.get(a), keys.get(b)];
          if (one === null || other === null) return (one === null) - (other === null) || a - b;
          const difference = numbers ? one - other : one < other ? -1 : one > other ? 1 : 0;
          return sign * difference || a - b;
        });
      }
      page = 0;
      show();
    }

    function cell(row, text, kind) {
      const one = document.createElement(kind === 'name' ? 'th' : 'td');
      if (kind === 'name') one.scope = 'row';
      if (kind) one.className = kind;
      one.textContent = text ?? '–';
      row.append(one);
      return one;
    }

    function text(key, value) {
      if (typeof value !== 'number') return value;
      if (key === 'size') return `${value} %`;
      if (key === 'n' || key === 't') return String(value);
      return value.toFixed(Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : 2);
    }

    function show() {
      const pages = Math.max(1, Math.ceil(found.length / perPage));
      const lines = found.slice(page * perPage, (page + 1) * perPage).map((row) => {
        const line = document.createElement('tr');
        for (const { dataset, className } of [...head.cells].slice(0, -1)) {
          const number = value[dataset.key](row);
          const one = cell(line, text(dataset.key, number), className);
          if (dataset.key === 'sharpness' && number !== null && number < data.soft) {
            const mark = document.createElement('span');
            mark.className = 'tag soft';
            mark.textContent = 'not sharp?';
            one.append(' ', mark);
          }
        }
        const links = cell(line, '', 'fixed');
        const before = prefix(row);
        for (const kind of before ? ['sharp', 'blur'] : []) {
          const link = document.createElement('a');
          link.href = before + files[kind](row).split('/').map(encodeURIComponent).join('/');
          link.textContent = kind;
          links.append(link, ' ');
        }
        return line;
      });
      body.replaceChildren(...lines);
      const all = found.length === count ? '' : ` of ${count.toLocaleString('en')}`;
      byId('find-count').textContent =
        `${found.length.toLocaleString('en')}${all} pair${found.length === 1 ? '' : 's'}`;
      byId('find-page').textContent = `Page ${page + 1} of ${pages}`;
      byId('find-back').disabled = page === 0;
      byId('find-next').disabled = page + 1 === pages;
    }

    [...head.cells].forEach((one) => one.querySelector('button')?.addEventListener('click', () => {
      const up = sort.key === one.dataset.key ? !sort.up : true;
      for (const other of head.cells) other.removeAttribute('aria-sort');
      one.setAttribute('aria-sort', up ? 'ascending' : 'descending');
      sort = { key: one.dataset.key, up };
      order();
    }));
    const inputs = [...byId('finder').querySelectorAll('input, select')];
    inputs.forEach((one) => one.addEventListener('input', search));
    byId('find-clear').addEventListener('click', () => {
      inputs.forEach((one) => { one.value = ''; });
      search();
    });
    byId('find-back').addEventListener('click', () => { page -= 1; show(); });
    byId('find-next').addEventListener('click', () => { page += 1; show(); });
    byId('finder').hidden = false;
    search();
  }

  document.documentElement.classList.add('js');
  finder();
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

  document.querySelector('.controls').hidden = false;
  const sizes = walks.map((walk) => walk.querySelectorAll('.points > li').length);
  choose(sizes.indexOf(Math.max(...sizes)), 99);
})();
