"use strict";
// Cards, the list of all photos, and corrections. Data becomes text of elements, never markup.
(() => {
  const CARDS_PER_PAGE = 12;
  const FIRST_CLASSES = 25;
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const pictured = new Set(data.pictured);
  const given = new Map(); // label that the user gave here, by row
  const undoable = []; // {row, before}, the last one at the end
  let unsaved = false;
  let cardNumber = 0;

  document.documentElement.classList.add("scripted");

  // -- words

  const isKnown = (row) => data.known[row] >= 0;
  const labelOf = (row) => given.get(row) ?? data.labels[row];
  const counted = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const announce = (text) => { byId("announcement").textContent = text; };

  function givenWords(row) {
    if (!given.has(row)) return isKnown(row) ? "you labeled this before" : "";
    const label = given.get(row);
    return label === data.labels[row] ? "you confirmed this label" : `you corrected this to ${data.classes[label]}`;
  }

  function countWords() {
    const corrected = [...given].filter(([row, label]) => label !== data.labels[row]).length;
    const confirmed = given.size - corrected;
    const words = counted(corrected, "correction") + (confirmed ? `, ${confirmed.toLocaleString("en")} confirmed` : "");
    return unsaved || !given.size ? words : `${words}, saved`;
  }

  // -- class names, as typed

  const plain = (text) => text.trim().replace(/\s+/g, " ").toLowerCase();
  const exactClass = new Map(data.classes.map((name, label) => [name, label]));
  const plainClasses = new Map();
  data.classes.forEach((name, label) => {
    plainClasses.set(plain(name), plainClasses.has(plain(name)) ? -1 : label); // -1: not one alone
  });

  function classOf(text) {
    const label = exactClass.get(text) ?? exactClass.get(text.trim()) ?? plainClasses.get(plain(text)) ?? -1;
    return label < 0 ? null : label;
  }

  // -- cards

  function makeCard(row) {
    const card = byId("card").content.firstElementChild.cloneNode(true);
    const field = (name) => card.querySelector(`[data-field="${name}"]`);
    card.dataset.row = row;
    const thumbnail = card.querySelector(".thumbnail");
    thumbnail.className = `thumbnail ${pictured.has(row) ? `p${row}` : "unpictured"}`;
    thumbnail.setAttribute("aria-label", `${data.classes[data.labels[row]]}: ${data.names[row]}`);
    field("name").textContent = data.names[row];
    field("name").title = data.names[row];
    const runnerUp = data.runnersUp[row];
    field("sureness").textContent = `${data.percents[row]}% sure${
      runnerUp === data.labels[row] ? "" : `, or ${data.classes[runnerUp]} ${data.runnerUpPercents[row]}%`
    }`;
    field("doubt").textContent = data.doubts[row] ?? "";
    cardNumber += 1;
    field("wrong").id = `wrong-${cardNumber}`;
    const input = card.querySelector("input");
    input.setAttribute("aria-describedby", `wrong-${cardNumber}`);
    input.setAttribute("aria-label", `Right label of ${data.names[row]}`);
    card.querySelector('[data-action="confirm"]').setAttribute("aria-label", `Label is right: ${data.names[row]}`);
    showState(card);
    return card;
  }

  /** Bring what a card or a picture says of its correction up to date. */
  function showState(element) {
    const row = Number(element.dataset.row);
    if (element.matches(".picture")) {
      const corrected = given.has(row) && given.get(row) !== data.labels[row];
      element.querySelector(".mark").textContent = given.has(row) ? (corrected ? "✎" : "✓") : "";
      const words = givenWords(row);
      const name = `${data.classes[data.labels[row]]}: ${data.names[row]}`;
      element.querySelector(".thumbnail").setAttribute("aria-label", words ? `${name}, ${words}` : name);
      return;
    }
    element.querySelector('[data-field="label"]').textContent = data.classes[labelOf(row)];
    element.querySelector('[data-field="given"]').textContent = givenWords(row);
    element.querySelector('[data-field="sureness"]').hidden = given.has(row);
    element.querySelector('[data-action="take-back"]').hidden = !given.has(row);
    element.querySelector('[data-action="confirm"]').hidden = given.has(row);
  }

  function refuse(card, message) {
    const wrong = card.querySelector('[data-field="wrong"]');
    const input = card.querySelector("input");
    wrong.hidden = !message;
    wrong.textContent = message;
    input.toggleAttribute("aria-invalid", false);
    if (message) {
      input.setAttribute("aria-invalid", "true");
      input.focus();
      announce(message);
    }
  }

  // -- corrections

  function give(row, label) {
    if (given.get(row) === label) return;
    undoable.push({ row, before: given.get(row) });
    setGiven(row, label);
    announce(label === undefined ? `Taken back. ${countWords()}` : `${data.names[row]}: ${givenWords(row)}. ${countWords()}`);
  }

  function setGiven(row, label) {
    if (label === undefined) given.delete(row);
    else given.set(row, label);
    unsaved = given.size > 0;
    document.querySelectorAll(`[data-row="${row}"]`).forEach(showState);
    showBar();
  }

  function showBar() {
    byId("save-bar").hidden = !given.size && !undoable.length;
    byId("count").textContent = countWords();
    document.querySelector('[data-action="undo"]').disabled = !undoable.length;
    document.querySelector('[data-action="save"]').disabled = !given.size;
  }

  function undo() {
    const { row, before } = undoable.pop();
    setGiven(row, before);
    announce(`Undone: ${data.names[row]}. ${countWords()}`);
  }

  function correct(card) {
    const input = card.querySelector("input");
    const label = classOf(input.value);
    if (!input.value.trim()) return refuse(card, "Type the name of a class first.");
    if (label === null) {
      return refuse(card, `“${input.value.trim().slice(0, 60)}” is no class. Choose a name from the list.`);
    }
    refuse(card, "");
    input.value = "";
    give(Number(card.dataset.row), label);
  }

  // -- the file of corrections

  const quoted = (text) => (/[",\r\n]/.test(text) || text.trim() !== text ? `"${text.replaceAll('"', '""')}"` : text);

  /** All labels that a person gave, now or before, so that one file is enough for the next run. */
  function correctionsText() {
    const lines = ["path,label"];
    data.names.forEach((name, row) => {
      if (given.has(row) || isKnown(row)) lines.push(`${quoted(name)},${quoted(data.classes[labelOf(row)])}`);
    });
    return `${lines.join("\r\n")}\r\n`;
  }

  function save() {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([correctionsText()], { type: "text/csv" }));
    link.download = "corrections.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    unsaved = false;
    showBar();
    announce(`${countWords()}: corrections.csv`);
  }

  // -- pages of cards

  /** A list of which only one page is in the document; show(rows) begins at its first page. */
  function pagedList(list) {
    const pager = list.nextElementSibling;
    const [previous, next] = pager.querySelectorAll("button");
    let rows = [];
    let page = 0;
    function draw() {
      const nPages = Math.max(1, Math.ceil(rows.length / CARDS_PER_PAGE));
      const items = rows.slice(page * CARDS_PER_PAGE, (page + 1) * CARDS_PER_PAGE).map((row) => {
        const item = document.createElement("li");
        item.append(makeCard(row));
        return item;
      });
      list.replaceChildren(...items);
      pager.hidden = nPages === 1;
      pager.querySelector('[data-field="page"]').textContent = `Page ${page + 1} of ${nPages}`;
      previous.disabled = page === 0;
      next.disabled = page === nPages - 1;
    }
    function turn(step) {
      page += step;
      draw();
      list.scrollIntoView();
      const button = step < 0 ? previous : next;
      (button.disabled ? (step < 0 ? next : previous) : button).focus({ preventScroll: true });
      announce(pager.querySelector('[data-field="page"]').textContent);
    }
    previous.addEventListener("click", () => turn(-1));
    next.addEventListener("click", () => turn(1));
    return (newRows) => {
      rows = newRows;
      page = 0;
      draw();
    };
  }

  // -- all photos

  const lowerNames = data.names.map((name) => name.toLowerCase());
  const filters = byId("filters");
  const showAll = pagedList(byId("all-cards"));

  function filter() {
    const { text, label, kind, order } = filters.elements;
    const part = text.value.trim().toLowerCase();
    const wanted = {
      all: () => true,
      doubtful: (row) => row in data.doubts,
      changed: (row) => data.zeroShot[row] !== labelOf(row),
      given: (row) => given.has(row) || isKnown(row),
    }[kind.value];
    const inOrder = order.value === "doubt" ? data.doubtfulFirst : data.names.map((_, row) => row);
    const rows = inOrder.filter(
      (row) =>
        lowerNames[row].includes(part) && (label.value === "" || labelOf(row) === Number(label.value)) && wanted(row),
    );
    byId("found").textContent = rows.length === data.names.length ? counted(rows.length, "photo") : `${counted(rows.length, "photo")} of ${data.names.length.toLocaleString("en")}`;
    showAll(rows);
  }

  function nameClasses() {
    const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
    const inOrder = data.classes.map((_, label) => label).sort((a, b) => (data.classes[a] < data.classes[b] ? -1 : 1));
    byId("class-names").append(...inOrder.map((label) => option(data.classes[label], "")));
    filters.elements.label.append(...inOrder.map((label) => option(String(label), data.classes[label])));
  }

  // -- the table of classes: a few at first

  function shortenClasses() {
    const rows = [...document.querySelectorAll(".classes tbody tr")];
    const button = byId("more-classes");
    if (rows.length <= FIRST_CLASSES) return;
    const setHidden = (hidden) => rows.slice(FIRST_CLASSES).forEach((row) => { row.hidden = hidden; });
    button.textContent = `Show all ${rows.length} classes`;
    button.hidden = false;
    setHidden(true);
    button.addEventListener("click", () => {
      setHidden(false);
      button.hidden = true;
      rows[FIRST_CLASSES].querySelector("a").focus();
    });
  }

  // -- one photo

  const dialog = byId("one-photo");

  function open(row) {
    dialog.querySelector('[data-field="place"]').replaceChildren(makeCard(row));
    dialog.append(byId("announcement")); // what is outside of a modal dialog is not read out
    dialog.showModal();
  }

  dialog.addEventListener("close", () => document.body.append(byId("announcement")));

  // -- events

  const actions = {
    confirm: (button) => confirmLabel(button.closest(".card")),
    "take-back": (button) => takeBack(button.closest(".card")),
    undo,
    save,
    close: () => dialog.close(),
  };

  function confirmLabel(card) {
    refuse(card, "");
    give(Number(card.dataset.row), data.labels[Number(card.dataset.row)]);
    card.querySelector('[data-action="take-back"]').focus();
  }

  function takeBack(card) {
    give(Number(card.dataset.row), undefined);
    card.querySelector('[data-action="confirm"]').focus();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    const link = event.target.closest("a[data-class]");
    if (button?.matches(".picture")) open(Number(button.dataset.row));
    else if (button && button.dataset.action in actions) actions[button.dataset.action](button);
    else if (link) {
      filters.reset();
      filters.elements.label.value = link.dataset.class;
      filter();
    }
  });
  document.addEventListener("submit", (event) => {
    event.preventDefault();
    if (event.target.matches(".correction")) correct(event.target.closest(".card"));
  });
  filters.addEventListener("input", filter);
  window.addEventListener("beforeunload", (event) => {
    if (!unsaved) return;
    event.preventDefault();
    event.returnValue = true; // what older browsers look at
  });

  nameClasses();
  shortenClasses();
  if (byId("doubtful-cards")) {
    pagedList(byId("doubtful-cards"))(data.doubtfulFirst.slice(0, Object.keys(data.doubts).length));
  }
  filters.hidden = false;
  filter();
})();
