"use strict";
(() => {
  // Texts of the data are hostile: they are written by textContent and setAttribute only, never as markup.
  const get = id => document.getElementById(id);
  const data = JSON.parse(get("data").textContent);
  const total = data.case.length, PAGE = 50, PRINTED = 500;
  if (!total) return;
  const make = (tag, attributes = {}, ...children) => {
    const svg = tag === "svg" || tag === "line";
    const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
    element.append(...children.filter(child => child !== null));
    return element;
  };
  const number = value => value === null || value === undefined ? "–" : value.toFixed(3);
  const counted = value => value.toLocaleString("en-US", {maximumFractionDigits: 1});
  const columns = data.columns, labels = Object.keys(data.classes);

  // ---------------------------------------------------------------- order, filter, table
  const state = {score: data.score, share: 0, sort: "rank", down: false, page: 0, open: -1, printing: false};
  const first = ["relation_confidence", "pairwise_dice", "predicted_dice", "dice_lower_bound", "dice"].filter(name => columns[name]);
  let rank = [], shown = [];

  const rankBy = name => { // the cases stand in the order of data.score
    rank = new Array(total);
    (data.orders[name] || [...data.case.keys()]).forEach((i, place) => { rank[i] = place; });
  };
  const inPlan = i => rank[i] < Math.floor(total * state.share / 100);

  const memory = "overread-review-" + data.key, reviewed = new Map();
  try { // a browser may refuse storage to a file
    for (const [name, time] of Object.entries(JSON.parse(localStorage.getItem(memory) || "{}"))) {
      const i = data.case.indexOf(name);
      if (i >= 0) reviewed.set(i, String(time));
    }
  } catch { /* marks then live as long as the page */ }
  const mark = (i, on) => {
    if (on) reviewed.set(i, new Date().toISOString()); else reviewed.delete(i);
    try { localStorage.setItem(memory, JSON.stringify(Object.fromEntries([...reviewed].map(([j, time]) => [data.case[j], time])))); } catch { /* as above */ }
    get("done").textContent = reviewed.size;
    draw();
    const box = get("mark");
    if (box && state.open === i) box.checked = on;
  };

  const passes = i => {
    const show = get("show").value, word = get("find").value.trim().toLowerCase(), most = get("most").valueAsNumber;
    if (!data.case[i].toLowerCase().includes(word)) return false;
    if (show === "plan" && !inPlan(i) || show === "open" && reviewed.has(i) || show === "done" && !reviewed.has(i) || show === "flag" && !data.flags[i].length) return false;
    const value = columns[get("column").value][i];
    return Number.isNaN(most) || value === null || value <= most; // a missing value is no sign of safety
  };
  const compare = () => {
    const sign = state.down ? -1 : 1, values = columns[state.sort], low = v => v === null ? -Infinity : v;
    if (state.sort === "rank") return (a, b) => sign * (rank[a] - rank[b]);
    if (state.sort === "case") return (a, b) => sign * data.case[a].localeCompare(data.case[b], undefined, {numeric: true});
    if (state.sort === "flag") return (a, b) => sign * (data.flags[b].length - data.flags[a].length) || rank[a] - rank[b];
    if (state.sort === "reviewed") return (a, b) => sign * (reviewed.has(a) - reviewed.has(b)) || rank[a] - rank[b];
    return (a, b) => (low(values[a]) === low(values[b]) ? rank[a] - rank[b] : sign * (low(values[a]) - low(values[b])));
  };
  const arrange = () => {
    shown = [...data.case.keys()].filter(passes).sort(compare());
    state.page = 0;
    draw();
  };
  const heads = [["rank", "rank", "n"], ["case", "case", ""], ...first.map(name => [name, data.names[name], "n"]), ["flag", "flag", ""], ["reviewed", "done", ""]];
  const head = () => get("head").replaceChildren(...heads.map(([key, name, kind]) => {
    const now = state.sort === key, button = make("button", {type: "button"}, name + (now ? (state.down ? "\u00a0▾" : "\u00a0▴") : ""));
    button.addEventListener("click", () => { state.down = now && !state.down; state.sort = key; head(); arrange(); get("head").children[heads.findIndex(h => h[0] === key)].firstChild.focus(); });
    return make("th", {class: kind || null, scope: "col", "aria-sort": now ? (state.down ? "descending" : "ascending") : null}, button);
  }));
  const row = i => {
    const name = make("button", {type: "button"}, data.case[i]), box = make("input", {type: "checkbox", "aria-label": "reviewed: " + data.case[i]});
    box.checked = reviewed.has(i);
    box.addEventListener("change", () => mark(i, box.checked));
    const line = make("tr", {class: [data.flags[i].length ? "flagged" : "", inPlan(i) ? "plan-in" : ""].join(" ").trim() || null, "aria-current": i === state.open ? "true" : null, "data-case": i},
      make("td", {class: "n"}, String(rank[i] + 1)), make("td", {class: "word"}, name),
      ...first.map(column => make("td", {class: "n"}, number(columns[column][i]))),
      make("td", {}, ...data.flags[i].map(words => make("span", {class: "badge"}, "⚑ " + words))), make("td", {}, box));
    line.addEventListener("click", event => { if (event.target !== box) open(i); });
    return line;
  };
  const paper = () => { // how much of the list is on paper, where the filter's own line is not
    const to = Math.min(shown.length, PRINTED), left = shown.length === total ? counted(total) : `${counted(shown.length)} that the filter leaves of ${counted(total)}`;
    return !state.printing || to === total ? "" : ": " + (to < shown.length ? `the first ${counted(to)} of ` : "") + left;
  };
  const draw = () => {
    const active = document.activeElement?.closest?.("#rows tr")?.dataset.case, kind = document.activeElement?.type;
    const pages = Math.max(1, Math.ceil(shown.length / PAGE));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const from = state.printing ? 0 : state.page * PAGE, to = state.printing ? PRINTED : from + PAGE;
    get("rows").replaceChildren(...shown.slice(from, to).map(row));
    if (state.open >= 0) get("viewer").querySelector("h3").textContent = `${rank[state.open] + 1}. ${data.case[state.open]}`;
    if (active !== undefined) get("rows").querySelector(`tr[data-case="${active}"] ${kind === "checkbox" ? "input" : "button"}`)?.focus();
    get("page").textContent = `page ${state.page + 1} of ${pages}`;
    get("back").disabled = state.page === 0;
    get("on").disabled = state.page === pages - 1;
    get("printed").textContent = paper();
    get("shown").textContent = `${counted(shown.length)} of ${counted(total)} shown`;
  };

  // ---------------------------------------------------------------- what a review gains
  const gain = () => {
    const plan = data.plans[state.score], x = state.share, own = Math.floor(total * x / 100);
    get("share-said").textContent = x + " %";
    get("share").setAttribute("aria-valuetext", `${x} per cent, ${own} cases`);
    if (!plan) {
      get("gain").textContent = `${counted(own)} of ${counted(total)} cases. What that gains is unknown: neither true nor predicted Dice is there (calibrate the package for the latter).`;
      return;
    }
    const rest = plan.n - plan.reviewed[x], basis = plan.basis === "true" ? "by the true Dice" : "by the predicted Dice, as the truth is unknown";
    const of = plan.n === total ? "" : ` of the ${counted(plan.n)} with known truth`;
    const mean = rest && plan.rest_dice[x] !== null ? `the other ${counted(rest)} have an expected mean Dice of ${number(plan.rest_dice[x])} (all: ${number(plan.rest_dice[0])})` : "no other case with a Dice is left";
    const failures = plan.failures ? `${counted(plan.caught[x])} of ${counted(plan.failures)} ${plan.basis === "true" ? "" : "expected "}failures are caught (Dice below ${plan.failure_dice}${plan.basis === "true" ? "" : ", or flagged"})` : `there is no case of Dice below ${plan.failure_dice}`;
    get("gain").textContent = `${counted(plan.reviewed[x])} cases${of} to review (▸); ${mean}; ${failures}, ${basis}.`;
  };

  // ---------------------------------------------------------------- pictures: decoded when a case is opened
  const bytes = text => Uint8Array.from(atob(text), sign => sign.charCodeAt(0));
  const inflate = async text => new Response(new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
  const decode = async i => {
    const source = get("p" + i);
    if (!source) return null;
    const view = JSON.parse(source.textContent), [depth, height, width] = view.shape;
    const picture = new Image();
    picture.src = "data:image/jpeg;base64," + view.image;
    const [codes] = await Promise.all([inflate(view.codes), picture.decode()]);
    const context = make("canvas", {width, height: depth * height}).getContext("2d", {willReadFrequently: true});
    context.drawImage(picture, 0, 0);
    const colours = context.getImageData(0, 0, width, depth * height).data;
    view.grey = new Uint8Array(depth * height * width);
    for (let v = 0; v < view.grey.length; v++) view.grey[v] = colours[4 * v];
    view.codes = view.bytes_per_code === 1 ? new Uint8Array(codes) : view.bytes_per_code === 2 ? new Uint16Array(codes) : new Uint32Array(codes);
    view.members = view.layers.map((_, at) => at).slice(view.has_truth ? 2 : 1);
    delete view.image;
    return view;
  };
  const cache = new Map(); // the last few cases
  const pictures = i => {
    const found = cache.get(i) || decode(i);
    cache.delete(i);
    cache.set(i, found);
    if (cache.size > 6) cache.delete(cache.keys().next().value);
    return found;
  };

  // Colours of Okabe and Ito; layers differ by their dashes, too.
  const LINES = [[], [9, 5], [2, 4]];
  const dashes = n => LINES[n] || [8, 3, ...new Array(n - LINES.length + 1).fill([2, 3]).flat()]; // then a dash and ever more dots
  const ROLES = {prediction: ["#e69f00", []], truth: ["#56b4e9", [10, 6]], possible: ["#f0e442", [3, 4]], consensus: ["#009e73", [6, 4, 2, 4]]};
  const MEMBERS = ["#d55e00", "#cc79a7", "#0072b2"];
  const hidden = new Set(), chosen = new Set(); // choices stay from case to case: roles are shown, members hidden
  const layersOf = view => {
    const role = (name, has) => ({name, colour: ROLES[name][0], line: ROLES[name][1], has, key: "role " + name});
    const table = view.table, all = view.members;
    const found = [role("prediction", k => table.map(ids => ids[0] === k))];
    if (view.has_truth) found.push(role("truth", k => table.map(ids => ids[1] === k)));
    found.push(role("possible", k => table.map(ids => all.some(m => ids[m] === k))), role("consensus", k => table.map(ids => all.length > 0 && all.every(m => ids[m] === k))));
    all.forEach((m, at) => found.push({name: view.layers[m], colour: MEMBERS[at % 3], line: dashes(Math.floor(at / 3)), has: k => table.map(ids => ids[m] === k), key: "member " + view.layers[m], member: true}));
    return found;
  };
  const visible = layer => layer.member ? chosen.has(layer.key) : !hidden.has(layer.key);

  // Closed outlines of a mask as corner numbers x + y (w + 1), the inside on the right.
  const outlines = (is, h, w) => {
    const next = new Map(), side = w + 1;
    const edge = (from, to) => { const ways = next.get(from); if (ways) ways.push(to); else next.set(from, [to]); };
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) if (is(y, x)) {
      const corner = x + y * side;
      if (!is(y - 1, x)) edge(corner, corner + 1);
      if (!is(y, x + 1)) edge(corner + 1, corner + 1 + side);
      if (!is(y + 1, x)) edge(corner + 1 + side, corner + side);
      if (!is(y, x - 1)) edge(corner + side, corner);
    }
    const loops = [];
    for (const [start, ways] of next) while (ways.length) { // as many edges enter a corner as leave it: every walk closes
      const loop = [start];
      for (let corner = ways.pop(); corner !== start; corner = next.get(corner).pop()) loop.push(corner);
      loops.push(loop);
    }
    return loops;
  };
  const axes = (view, normal) => [0, 1, 2].filter(axis => axis !== normal).sort((a, b) => view.upright[b] - view.upright[a]); // down, right
  const paint = (view, layers, normal, place, label, canvas) => {
    const [down, right] = axes(view, normal), stride = [view.shape[1] * view.shape[2], view.shape[2], 1];
    const h = view.shape[down], w = view.shape[right], start = place[normal] * stride[normal];
    const size = axis => view.native[axis] * view.voxel[axis], scale = (normal ? 420 : 560) / Math.max(size(down), size(right));
    canvas.width = Math.max(8, Math.round(size(right) * scale));
    canvas.height = Math.max(8, Math.round(size(down) * scale));
    const sx = canvas.width / w, sy = canvas.height / h, at = (y, x) => start + y * stride[down] + x * stride[right];
    const small = make("canvas", {width: w, height: h}), inner = small.getContext("2d"), pixels = inner.createImageData(w, h);
    for (let y = 0, p = 0; y < h; y++) for (let x = 0; x < w; x++, p += 4) {
      pixels.data[p] = pixels.data[p + 1] = pixels.data[p + 2] = view.grey[at(y, x)];
      pixels.data[p + 3] = 255;
    }
    inner.putImageData(pixels, 0, 0);
    const context = canvas.getContext("2d");
    context.drawImage(small, 0, 0, canvas.width, canvas.height);
    context.lineJoin = "round";
    for (const layer of layers.filter(visible)) {
      const path = new Path2D();
      for (const k of label ? [label] : labels.map((_, index) => index + 1)) {
        const inside = layer.has(k), is = (y, x) => y >= 0 && x >= 0 && y < h && x < w && inside[view.codes[at(y, x)]];
        if (!inside.some(Boolean)) continue;
        for (const loop of outlines(is, h, w)) {
          loop.forEach((corner, at) => path[at ? "lineTo" : "moveTo"](corner % (w + 1) * sx, Math.floor(corner / (w + 1)) * sy));
          path.closePath();
        }
      }
      context.setLineDash(layer.line);
      for (const [colour, thick] of [["rgba(0,0,0,.55)", 4], [layer.colour, 2.2]]) {
        context.strokeStyle = colour;
        context.lineWidth = thick;
        context.stroke(path);
      }
    }
  };

  // ---------------------------------------------------------------- the open case
  let repaint = () => {}, step = () => {}, toggle = () => {};
  const facts = i => make("dl", {class: "scores"}, ...Object.keys(columns).filter(name => columns[name][i] !== null).map(name =>
    make("div", {}, make("dt", {}, data.names[name]), make("dd", {}, name === "dice_lower_bound" ? "at least " + number(columns[name][i]) : number(columns[name][i])))), make("div", {}, make("dt", {}, "readings"), make("dd", {}, String(data.readings[i]))));
  const perClass = i => {
    const names = [...new Set(labels.flatMap(label => Object.keys(data.classes[label])))];
    return make("details", {}, make("summary", {}, "Per class"), make("div", {class: "scroll"}, make("table", {},
      make("thead", {}, make("tr", {}, make("th", {scope: "col"}, "class"), ...names.map(name => make("th", {class: "n", scope: "col"}, data.names[name] || name)))),
      make("tbody", {}, ...labels.map(label => make("tr", {}, make("th", {scope: "row", class: "word"}, label), ...names.map(name => make("td", {class: "n"}, number(data.classes[label][name]?.[i])))))))));
  };
  const told = (view, axis, at) => {
    const native = Math.floor((2 * at + 1) * view.native[axis] / (2 * view.shape[axis]));
    return `${view.planes[axis]}: voxel ${view.flipped[axis] ? view.native[axis] - 1 - native : native} of 0–${view.native[axis] - 1}`;
  };
  const studio = (i, view) => {
    const layers = layersOf(view), cube = view.shape[0] > 1, body = make("div");
    const key = cube ? Math.min(view.shape[0] - 1, Math.floor(view.key * view.shape[0] / view.native[0])) : 0;
    const place = [key, view.shape[1] >> 1, view.shape[2] >> 1];
    if (cube) { // where the key slice has most foreground
      let y = 0, x = 0, n = 0;
      const some = view.table.map(ids => ids.some(Boolean)), [, h, w] = view.shape;
      for (let v = 0; v < h * w; v++) if (some[view.codes[key * h * w + v]]) { y += Math.floor(v / w); x += v % w; n++; }
      if (n) { place[1] = Math.round(y / n); place[2] = Math.round(x / n); }
    }
    const label = make("select", {"aria-label": "class of the contours"}, make("option", {value: 0}, "all classes"), ...labels.map((name, at) => make("option", {value: at + 1}, name)));
    const boxes = layers.map((layer, at) => {
      const box = make("input", {type: "checkbox"});
      box.checked = visible(layer);
      box.addEventListener("change", () => {
        const set = layer.member ? chosen : hidden;
        if (box.checked === Boolean(layer.member)) set.add(layer.key); else set.delete(layer.key);
        repaint();
      });
      const stroke = make("line", {x1: 1, x2: 29, y1: 5, y2: 5, stroke: layer.colour, "stroke-width": 3, "stroke-dasharray": layer.line.join(" ") || null});
      return [box, make("label", {}, box, make("svg", {viewBox: "0 0 30 10", "aria-hidden": "true"}, stroke), (at < 9 ? at + 1 + " " : "") + layer.name)];
    });
    const planes = (cube ? [0, 1, 2] : [0]).map(normal => {
      const canvas = make("canvas", {role: "img"}), said = make("span"), slider = make("input", {type: "range", min: 0, max: view.shape[normal] - 1, "aria-label": view.planes[normal] + " slice"});
      slider.addEventListener("input", () => { place[normal] = slider.valueAsNumber; show(normal); });
      canvas.addEventListener("click", event => {
        const [down, right] = axes(view, normal), box = canvas.getBoundingClientRect(), to = (share, axis) => Math.min(view.shape[axis] - 1, Math.max(0, Math.floor(share * view.shape[axis])));
        place[down] = to((event.clientY - box.top) / box.height, down);
        place[right] = to((event.clientX - box.left) / box.width, right);
        if (cube) repaint();
      });
      return {canvas, said, slider, figure: make("figure", {}, canvas, make("label", {}, said, cube ? slider : null))};
    });
    const show = normal => {
      const {canvas, said, slider} = planes[normal];
      paint(view, layers, normal, place, Number(label.value), canvas);
      slider.value = place[normal];
      said.textContent = cube ? told(view, normal, place[normal]) : view.native[0] > 1 ? `${view.planes[0]}: voxel ${view.flipped[0] ? view.native[0] - 1 - view.key : view.key} of 0–${view.native[0] - 1}` : "";
      slider.setAttribute("aria-valuetext", said.textContent);
      canvas.setAttribute("aria-label", `${said.textContent || "image"} of ${data.case[i]}, contours: ${layers.filter(visible).map(layer => layer.name).join(", ") || "none"}`);
    };
    repaint = () => planes.forEach((_, normal) => show(normal));
    step = by => { if (cube) { place[0] = Math.min(view.shape[0] - 1, Math.max(0, place[0] + by)); show(0); } };
    toggle = at => boxes[at]?.[0].click();
    label.addEventListener("change", repaint);
    const every = Math.max(...[0, 1, 2].map(axis => (axis || cube ? view.native[axis] / view.shape[axis] : 1)));
    const note = [cube || view.native[0] === 1 ? "" : "Key slice only: volumes are embedded for the worst cases.", every > 1 ? `Shown: one of about ${counted(every)} voxels along an axis; the masks in the folder have all.` : ""].filter(Boolean).join(" ");
    body.append(make("fieldset", {class: "layers"}, make("legend", {class: "soft small"}, "Contours"), ...boxes.map(([, element]) => element), labels.length > 1 ? label : null),
      make("div", {class: "planes"}, ...planes.map(plane => plane.figure)), ...(note ? [make("p", {class: "soft small"}, note)] : []));
    repaint();
    return body;
  };
  const open = async (i, focus = false) => {
    state.open = i;
    const viewer = get("viewer"), box = make("input", {type: "checkbox", id: "mark"}), frame = make("div", {}, make("p", {class: "soft"}, "…"));
    box.checked = reviewed.has(i);
    box.addEventListener("change", () => mark(i, box.checked));
    repaint = step = toggle = () => {};
    viewer.hidden = false;
    document.querySelector(".work").classList.add("open");
    viewer.replaceChildren(make("header", {}, make("h3", {tabindex: -1}), make("label", {}, box, " reviewed")),
      ...data.flags[i].map(words => make("span", {class: "badge"}, "⚑ " + words)), facts(i), frame, perClass(i));
    const at = shown.indexOf(i);
    if (at >= 0) state.page = Math.floor(at / PAGE);
    draw();
    const line = get("rows").querySelector("tr[aria-current]");
    if (focus) { line?.querySelector("button").focus({preventScroll: true}); line?.scrollIntoView({block: "nearest"}); }
    try {
      const view = await pictures(i);
      if (state.open !== i) return; // another case was opened meanwhile
      frame.replaceChildren(view ? studio(i, view) : make("p", {class: "soft"}, "No picture of this case is embedded."));
      viewer.dataset.painted = i;
    } catch (error) {
      frame.replaceChildren(make("p", {class: "warning"}, "The picture of this case cannot be decoded by this browser: " + error));
    }
    const next = shown[shown.indexOf(i) + 1];
    if (next !== undefined) pictures(next).catch(() => {});
  };
  const move = by => {
    const at = shown.indexOf(state.open), to = at < 0 ? 0 : at + by;
    if (shown[to] !== undefined) open(shown[to], true);
  };

  // ---------------------------------------------------------------- export
  const records = () => [...data.case.keys()].sort((a, b) => rank[a] - rank[b]).map(i => ({
    case: data.case[i], rank: rank[i] + 1, to_review: inPlan(i), reviewed: reviewed.has(i), reviewed_at: reviewed.get(i) || "", flag: data.flags[i].join("; "), n_readings: data.readings[i],
    ...Object.fromEntries(Object.keys(columns).map(name => [name, columns[name][i]]))}));
  const cell = value => {
    const text = value === null ? "" : typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value); // no formula for a spreadsheet
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = () => { const all = records(); return [Object.keys(all[0]), ...all.map(Object.values)].map(line => line.map(cell).join(",")).join("\n") + "\n"; };
  const json = () => JSON.stringify({title: document.title, score: state.score, review_per_cent: state.share, cases: records()}, null, 1) + "\n";
  const save = (name, type, text) => {
    const link = make("a", {download: name, href: URL.createObjectURL(new Blob([text], {type}))});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  // ---------------------------------------------------------------- controls and keys
  for (const name of data.scores) get("score").append(make("option", {value: name}, data.names[name] || name));
  for (const name of Object.keys(columns)) get("column").append(make("option", {value: name}, data.names[name]));
  for (const element of document.querySelectorAll(".plan, .controls, .pager, #progress")) element.hidden = false;
  document.querySelector(".controls").addEventListener("submit", event => event.preventDefault());
  for (const id of ["find", "show", "column", "most"]) get(id).addEventListener("input", arrange);
  get("share").addEventListener("input", () => { state.share = get("share").valueAsNumber; gain(); if (get("show").value === "plan") arrange(); else draw(); });
  get("score").addEventListener("change", () => { state.score = get("score").value; state.sort = "rank"; state.down = false; rankBy(state.score); head(); gain(); arrange(); });
  get("back").addEventListener("click", () => { state.page--; draw(); });
  get("on").addEventListener("click", () => { state.page++; draw(); });
  get("csv").addEventListener("click", () => save("review.csv", "text/csv", csv()));
  get("json").addEventListener("click", () => save("review.json", "application/json", json()));
  const help = () => { const keys = get("keys"); keys.hidden = !keys.hidden; get("help").setAttribute("aria-expanded", String(!keys.hidden)); };
  get("help").addEventListener("click", help);
  const KEYS = {
    j: () => move(1), k: () => move(-1), r: () => state.open >= 0 && mark(state.open, !reviewed.has(state.open)),
    u: () => { const from = shown.indexOf(state.open), next = shown.find((i, at) => at > from && !reviewed.has(i)) ?? shown.find(i => !reviewed.has(i)); if (next !== undefined) open(next, true); },
    "[": () => step(-1), "]": () => step(1), "/": () => get("find").focus(), "?": help};
  document.addEventListener("keydown", event => {
    const typing = event.target.matches("input[type=search], input[type=number], select");
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = KEYS[event.key] || (/^[1-9]$/.test(event.key) ? () => toggle(Number(event.key) - 1) : null);
    if (act) { event.preventDefault(); act(); }
  });
  addEventListener("beforeprint", () => { state.printing = true; draw(); });
  addEventListener("afterprint", () => { state.printing = false; draw(); });
  rankBy(state.score);
  head(); gain(); arrange();
  get("done").textContent = reviewed.size;
  open(shown[0]);
  document.documentElement.dataset.ready = String(Math.round(performance.now())); // milliseconds from the first byte
})();
