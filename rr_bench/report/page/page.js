"use strict";

// Sorting. A column of numbers sorts by them, lengths such as 8K among them; what is undefined, "–",
// stays at the end either way.
function sortKey(text) {
  const found = /^[<>]?\s*(-?\d+(?:\.\d+)?)(K?)(?![\w.-])/.exec(text.replaceAll(",", ""));
  return found ? Number(found[1]) * (found[2] ? 1024 : 1) : null;
}

function sortBy(header, table) {
  const column = header.cellIndex;
  const upward = header.getAttribute("aria-sort") !== "ascending";
  const body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => {
    const text = row.cells[column].textContent.trim();
    return { row, text, number: sortKey(text) };
  });
  const defined = rows.filter((one) => one.text !== "–" && one.text !== "");
  const numbers = defined.length > 0 && defined.every((one) => one.number !== null);
  const way = upward ? 1 : -1;
  const order = new Intl.Collator("en", { numeric: true });
  defined.sort((a, b) => way * (numbers ? a.number - b.number : order.compare(a.text, b.text)));
  const rest = rows.filter((one) => one.text === "–" || one.text === "");
  body.append(...defined.concat(rest).map((one) => one.row));
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", upward ? "ascending" : "descending");
}

for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) sortBy(button.closest("th"), table);
  });
}

// Filtering: a row stays that holds every word.
for (const input of document.querySelectorAll("input[data-filters]")) {
  const table = document.getElementById(input.dataset.filters);
  const count = document.getElementById(`${input.dataset.filters}-count`);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of table.tBodies[0].rows) {
      const text = Array.from(row.cells, (cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += row.hidden ? 0 : 1;
    }
    count.textContent = `${shown} of ${table.tBodies[0].rows.length} rows`;
  });
}

// Samples.
const source = document.getElementById("data");
const data = source ? JSON.parse(source.textContent) : null;

function make(name, text, className) {
  const element = document.createElement(name);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function percent(score) {
  return score === null || score === undefined ? "–" : `${+(100 * score).toFixed(1)}`;
}

function counted(number, word) {
  return `${number} ${word}${number === 1 ? "" : "s"}`;
}

// A text, marked from where it differs; a place beyond what is kept marks nothing.
function marked(text, at) {
  const box = make("dd", undefined, "text");
  if (at === undefined || at >= text.length) {
    box.textContent = text === "" ? "(empty)" : text;
    return box;
  }
  box.append(text.slice(0, at), make("mark", text.slice(at)));
  return box;
}

// Of many graded questions, those that the other side answered differently.
function markedEach(text, other) {
  const box = make("dd", undefined, "text");
  for (let i = 0; i < text.length; i += 1) {
    box.append(other !== undefined && text[i] !== other[i] ? make("mark", text[i]) : text[i]);
  }
  return box;
}

function differs(sample, answer) {
  if (sample.e) return "failed";
  if (!answer) return "";
  if (sample.at === undefined) return "output as dense";
  if (!sample.q) return `differs from dense at character ${sample.at + 1}`;
  let others = 0;
  for (let i = 0; i < sample.o.length; i += 1) others += sample.o[i] !== answer.o[i] ? 1 : 0;
  return `${counted(others, "question")} of ${sample.q} differ, first ${sample.at + 1}`;
}

function sampleBox(sample) {
  const prompt = data.prompts[sample.p];
  const answer = sample.a === undefined ? null : data.answers[sample.a];
  const box = make("details", undefined, "sample");
  const head = make("summary");
  head.append(make("b", prompt.uid), make("span", `score ${percent(sample.s)}`));
  if (answer) head.append(make("span", `dense ${percent(answer.s)}`));
  if (sample.d !== undefined) head.append(make("span", `density ${sample.d} %`));
  head.append(make("span", differs(sample, answer), "quiet"));
  box.append(head);
  box.addEventListener("toggle", () => {
    if (box.open && box.childElementCount === 1) box.append(details(sample, prompt, answer));
  });
  return box;
}

function details(sample, prompt, answer) {
  const list = make("dl");
  const add = (name, value) => list.append(make("dt", name), value);
  const text = (value) => make("dd", value, "text");
  add("prompt", make("dd", `${prompt.task}, ${prompt.tokens} tokens`));
  if (prompt.head) add("starts", text(prompt.head));
  if (prompt.tail) add("ends", text(prompt.tail));
  if (!prompt.head) add("text", make("dd", "not stored", "quiet"));
  add("gold", text(prompt.gold));
  if (sample.e) add("error", text(sample.e));
  else if (sample.q) add("right (1) or wrong (0)", markedEach(sample.o, answer?.o));
  else add("output", marked(sample.o, sample.at));
  if (answer) add("dense", sample.q ? markedEach(answer.o, sample.o) : marked(answer.o, sample.at));
  if (sample.w) {
    add("output, where it differs", text(`… ${sample.w[0]} …`));
    add("dense, there", text(`… ${sample.w[1]} …`));
  }
  return list;
}

function showCell(key) {
  const place = document.getElementById("cell-samples");
  const cell = data.cells[key];
  place.replaceChildren();
  document.getElementById("cell").value = cell ? key : "";
  if (!cell) return;
  place.append(make("h3", cell.label));
  const shown = cell.samples.length;
  const note = make("p", `${shown} of ${counted(cell.n, "sample")}`, "quiet");
  if (shown > 1) note.append(", those first that failed or lost most of the dense score");
  if (shown < cell.n) {
    const link = make("a", cell.link);
    link.href = encodeURI(cell.link);
    note.append("; all are in ", link);
  }
  place.append(note, ...cell.samples.map(sampleBox));
}

function follow() {
  const found = /^#cell=(\w+)$/.exec(location.hash);
  if (!found) return;
  showCell(found[1]);
  const title = document.getElementById("samples-title");
  title.scrollIntoView();
  title.focus({ preventScroll: true });
}

if (data) {
  const select = document.getElementById("cell");
  for (const [key, cell] of Object.entries(data.cells)) {
    const option = make("option", cell.label);
    option.value = key;
    select.append(option);
  }
  select.addEventListener("change", () => {
    history.replaceState(null, "", select.value ? `#cell=${select.value}` : "#samples");
    showCell(select.value);
  });
  window.addEventListener("hashchange", follow);
  follow();
}
