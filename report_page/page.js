"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const BLINK_MS = 700;
  document.documentElement.classList.add("js");

  // A control that calls `advance` again and again while it is pressed.
  const blinker = (button, advance) => {
    let timer = 0;
    const set = (on) => {
      clearInterval(timer);
      timer = on ? setInterval(advance, BLINK_MS) : 0;
      button.setAttribute("aria-pressed", String(on));
    };
    button.addEventListener("click", () => set(!timer));
    return set;
  };

  const gallery = byId("gallery");
  if (gallery) {
    const cells = [...gallery.querySelectorAll(".cell")];
    const radios = [...document.querySelectorAll("input[name=stage]")];
    const names = radios.map((radio) => radio.value);
    const stagesOf = (cell) => [...cell.querySelectorAll(".stage")];
    const visible = (cell) => cell.offsetParent !== null;

    // A cube that a stage passed over is shown as it was before.
    const latest = (stages, name) =>
      stages.filter((stage) => names.indexOf(stage.dataset.stage) <= names.indexOf(name)).pop() || stages[0];
    const chosen = () => radios.find((radio) => radio.checked).value;
    const showStage = (name) => {
      for (const cell of cells) {
        const stages = stagesOf(cell);
        const current = latest(stages, name);
        stages.forEach((stage) => stage.classList.toggle("current", stage === current));
      }
    };
    const stepStage = () => {
      radios[(names.indexOf(chosen()) + 1) % radios.length].checked = true;
      showStage(chosen());
    };
    radios.forEach((radio) => radio.addEventListener("change", () => showStage(chosen())));
    showStage(chosen());
    const blinkAll = byId("blink") && blinker(byId("blink"), stepStage);

    const choices = ["variant", "band"].map(byId).filter(Boolean);
    const filter = () => {
      for (const row of gallery.tBodies[0].rows) {
        row.hidden = !choices.every(({ id, value }) => value === "*" || row.dataset[id] === value);
      }
    };
    choices.forEach((choice) => choice.addEventListener("change", filter));
    byId("controls").addEventListener("submit", (event) => event.preventDefault());

    gallery.addEventListener("keydown", (event) => {
      const cell = event.target.closest(".cell");
      if (cell && blinkAll && event.key.toLowerCase() === "b") byId("blink").click();
      const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      if (!cell || !(event.key in moves)) return;
      event.preventDefault();
      const [down, right] = moves[event.key];
      const table = [...gallery.tBodies[0].rows]
        .map((row) => [...row.querySelectorAll("td")].map((td) => td.querySelector(".cell")))
        .map((row) => row.filter((item) => item && visible(item)))
        .filter((row) => row.length);
      const y = table.findIndex((row) => row.includes(cell));
      const x = table[y].indexOf(cell);
      const row = table[y + down];
      const next = row && row[Math.min(x, row.length - 1) + right];
      if (next) next.focus();
    });

    const viewer = byId("viewer");
    let shown = null;
    let stage = null;
    const draw = (name) => {
      const stages = stagesOf(shown);
      stage = latest(stages, name);
      byId("viewer-title").textContent = shown.dataset.label;
      byId("viewer-mean").src = stage.querySelector("img").src;
      byId("viewer-single").src = stage.dataset.single;
      byId("viewer-numbers").textContent = `${stage.dataset.file}: ${stage.dataset.numbers}`;
      const told = shown.parentElement.querySelector("template").content.cloneNode(true);
      const notes = [...told.querySelectorAll("li")];
      notes.slice(Number(stage.dataset.corrections)).forEach((note) => note.remove());
      byId("viewer-plane").textContent = told.querySelector("p").textContent;
      byId("viewer-notes").replaceChildren(told.querySelector("ol"));
      const plot = byId("viewer-plot");
      // The quick look is of one stage; it stays while the stages blink.
      const quickLook = (stage.dataset.plot ? stage : stages[stages.length - 1]).dataset.plot;
      plot.hidden = !quickLook;
      if (quickLook && plot.getAttribute("href") !== quickLook) {
        plot.href = quickLook;
        plot.querySelector("img").src = quickLook;
      }
      byId("viewer-stages").replaceChildren(
        ...stages.map((item) => {
          const button = document.createElement("button");
          button.type = "button";
          button.textContent = item.dataset.stage;
          button.setAttribute("aria-pressed", String(item === stage));
          button.addEventListener("click", () => { blink(false); draw(item.dataset.stage); });
          return button;
        }),
      );
      byId("viewer-blink").hidden = stages.length < 2;
    };
    const go = (step) => {
      const stages = stagesOf(shown);
      const next = stages[(stages.indexOf(stage) + step + stages.length) % stages.length];
      draw(next.dataset.stage);
    };
    const blink = blinker(byId("viewer-blink"), () => go(1));
    const neighbour = (step) => {
      const all = cells.filter(visible);
      shown = all[(all.indexOf(shown) + step + all.length) % all.length];
      draw(stage.dataset.stage);
    };
    cells.forEach((cell) =>
      cell.addEventListener("click", () => {
        if (blinkAll) blinkAll(false);
        shown = cell;
        draw(chosen());
        viewer.showModal();
      }),
    );
    viewer.querySelectorAll("[data-go]").forEach((button) =>
      button.addEventListener("click", () => neighbour(Number(button.dataset.go))),
    );
    viewer.addEventListener("close", () => { blink(false); if (shown) shown.focus(); });
    viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
    viewer.addEventListener("keydown", (event) => {
      const actions = {
        ArrowLeft: () => neighbour(-1), ArrowRight: () => neighbour(1),
        ArrowUp: () => { blink(false); go(-1); }, ArrowDown: () => { blink(false); go(1); },
        b: () => byId("viewer-blink").click(), B: () => byId("viewer-blink").click(),
      };
      if (!(event.key in actions)) return;
      event.preventDefault();
      actions[event.key]();
    });
  }

  const search = byId("filter");
  if (search) {
    const rows = [...byId("task-table").tBodies[0].rows];
    const update = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        row.hidden = !words.every((word) => text.includes(word));
        count += !row.hidden;
      }
      byId("count").textContent = `${count} of ${rows.length}`;
    };
    search.addEventListener("input", update);
    update();
  }
})();
