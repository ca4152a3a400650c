"use strict";
// Draws views that were made in Python: every number and word comes from there. Text is set as text, never as HTML.
(() => {
  const page = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const narrow = window.matchMedia("(max-width: 820px)");
  const DELAY_MS = 250;
  const SAID_MS = 2000;
  let shown = null;
  let pending = null;
  let timer = null;
  let typed = null; // the field whose text is being typed: its changes are one step of the history
  let asked = null;
  let opening = false; // the question is the one that the page opens with: nobody chose its system

  function element(tag, properties = {}, children = []) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name in made) made[name] = value;
      else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  // -- figures ------------------------------------------------------------------------------------------------

  function theme() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    return { ink: colour("--ink"), muted: colour("--bar"), paper: colour("--paper"), line: colour("--line"), text: colour("--muted") };
  }

  function painted(value, colours) {
    if (typeof value === "string") return value.startsWith("@") ? colours[value.slice(1)] : value;
    if (Array.isArray(value)) return value.map((item) => painted(item, colours));
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([name, item]) => [name, painted(item, colours)]));
    }
    return value;
  }

  // What a figure takes before its legend is drawn, and known to be as high as it is.
  function room(place, figure, lines) {
    const legend = 20 * Math.ceil(lines / (narrow.matches ? 1 : Math.max(Math.floor(place.clientWidth / 190), 1))) + 8;
    const margin = { l: 8, r: 14, t: figure.layout.title ? 40 : 12, b: 52 + legend };
    const names = narrow.matches && figure.layout.tracks ? 14 * figure.layout.tracks.length : 0;
    return { legend, margin, height: figure.layout.height + names + margin.t + margin.b };
  }

  function draw(place, figure, more = []) {
    const colours = theme();
    const data = painted([...figure.data, ...more], colours);
    const layout = painted(figure.layout, colours);
    const axis = { gridcolor: colours.line, zerolinecolor: colours.line, linecolor: colours.line, automargin: true };
    layout.xaxis = { ...axis, ...layout.xaxis };
    layout.yaxis = { ...axis, ...layout.yaxis };
    const { legend, margin, height } = room(place, figure, data.length);
    Object.assign(layout, {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: colours.ink, size: narrow.matches ? 11 : 12.5, family: "system-ui, sans-serif" },
      margin,
      legend: { orientation: "h", x: 0, xanchor: "left", y: 0, yref: "container", yanchor: "bottom", traceorder: "normal", font: { size: 11.5 } },
      hoverlabel: { bgcolor: colours.paper, font: { color: colours.ink }, bordercolor: colours.ink, align: "left" },
      width: place.clientWidth,
      height,
      dragmode: false,
    });
    layout.xaxis.title = { standoff: 8, ...layout.xaxis.title, font: { size: 12 } };
    if (layout.yaxis.title) layout.yaxis.title = { standoff: 8, ...layout.yaxis.title, font: { size: 12 } };
    if (layout.title) Object.assign(layout.title, { x: 0, xanchor: "left", xref: "paper", font: { size: narrow.matches ? 10.5 : 13 } });
    if (layout.tracks && narrow.matches) nameTracksInside(layout, colours);
    place.style.minHeight = "";
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", figure.alt);
    window.Plotly.react(place, data, layout, { displayModeBar: false, scrollZoom: false, doubleClick: "reset" });
    fitLegend(place, layout, legend);
  }

  // How many lines a legend takes is known only when it is drawn; the margin below the axis is as high as it.
  function fitLegend(place, layout, guessed) {
    const drawn = place.querySelector(".legend");
    const missing = drawn ? drawn.getBoundingClientRect().height + 8 - guessed : -guessed;
    if (Math.abs(missing) < 2) return;
    window.Plotly.relayout(place, { height: layout.height + missing, "margin.b": layout.margin.b + missing });
  }

  // On a phone the names of tracks stand above their bars: beside them, they would leave no room.
  function nameTracksInside(layout, colours) {
    layout.yaxis.showticklabels = false;
    layout.yaxis.range = [-0.5, layout.tracks.length - 0.2];
    layout.annotations = layout.tracks.map((track, number) => ({
      x: 0, y: number + 0.34, xref: "paper", xanchor: "left", yanchor: "bottom", text: track, showarrow: false,
      font: { color: colours.ink, size: 10.5 },
    }));
  }

  // -- parts of a card ----------------------------------------------------------------------------------------

  const makers = {
    text: (part) => element("p", { className: `text${part.alarm ? " alarm" : ""}`, textContent: part.text }),
    lines: (part) =>
      element("dl", { className: "lines" }, part.lines.flatMap((line) => [
        element("dt", { textContent: line.name }),
        element("dd", { textContent: line.text, className: line.alarm ? "alarm" : "" }),
      ])),
    code: codePart,
    tiles: (part) =>
      element("dl", { className: "tiles" }, part.tiles.map((tile) =>
        element("div", {}, [
          element("dt", { textContent: tile.name }),
          element("dd", { textContent: tile.value, className: tile.alarm ? "alarm" : "" }),
        ]))),
    table: (part) => element("div", { className: "scroll" }, [table(part)]),
    figure: figurePart,
  };

  function codePart(part) {
    const words = element("code", { className: "command", textContent: part.text });
    const copy = element("button", { type: "button", className: "copy", textContent: "Copy" });
    copy.addEventListener("click", async () => {
      try {
        await window.navigator.clipboard.writeText(part.text);
        copy.textContent = "Copied";
        setTimeout(() => { copy.textContent = "Copy"; }, SAID_MS);
      } catch {
        window.getSelection().selectAllChildren(words); // not allowed here: Ctrl-C then copies what is selected
      }
    });
    return element("div", { className: "code" }, [words, copy]);
  }

  function table(part) {
    const heads = part.columns.map((column) =>
      element(column.name ? "th" : "td", {
        textContent: column.name, className: column.right ? "right" : "", ...(column.name ? { scope: "col" } : {}),
      }));
    const rows = part.rows.map((row) =>
      element("tr", { className: row.strong ? "strong" : "" }, row.cells.map((cell, index) =>
        element(index ? "td" : "th", {
          textContent: cell.text.replace(/(\d) (?=[a-zµ%])(?!of )/gi, "$1\u00a0"), // a number keeps its unit beside it
          className: [part.columns[index].right ? "right" : "", cell.alarm ? "alarm" : ""].join(" ").trim(),
          ...(index ? {} : { scope: "row" }),
        }))));
    const head = heads.some((one) => one.textContent) ? [element("thead", {}, [element("tr", {}, heads)])] : [];
    return element("table", {}, [...head, element("tbody", {}, rows)]);
  }

  function figurePart(part) {
    const place = element("div", { className: "figure", id: `figure-${part.name}` });
    const parts = part.figure.name ? [element("p", { className: "figure-title", textContent: part.figure.name })] : [];
    parts.push(place);
    if (part.figure.table) {
      parts.push(element("details", { id: `table-${part.name}` }, [element("summary", { textContent: "The same as a table" }), makers.table(part.figure.table)]));
    }
    return element("div", {}, parts);
  }

  function card(entry) {
    const title = element("h2", { id: `title-${entry.name}`, textContent: entry.title });
    const parts = entry.parts.map((part) => {
      const made = makers[part.kind](part);
      made.dataset.part = part.name;
      return made;
    });
    return element("section", { className: `card${entry.wide ? " wide" : ""}`, id: `card-${entry.name}`, "aria-labelledby": title.id }, [title, ...parts]);
  }

  function show(view) {
    shown = view;
    document.title = `${view.label} · llm-perf`;
    const open = [...$("result").querySelectorAll("details[open]")].map((one) => one.id);
    const place = window.scrollY;
    $("result").style.minHeight = `${$("result").offsetHeight}px`; // the page keeps its place until all is drawn
    if (window.Plotly) for (const old of $("result").querySelectorAll(".figure")) window.Plotly.purge(old);
    $("result").replaceChildren(...view.cards.map(card));
    for (const id of open) if ($(id)) $(id).open = true;
    $("result").classList.remove("stale");
    if (!window.Plotly) reserve(view);
    paint();
    $("result").style.minHeight = "";
    window.scrollTo({ top: place, behavior: "instant" });
  }

  // Figures have their room before they are drawn: nothing moves when the program that draws them comes.
  function reserve(view) {
    for (const part of view.cards.flatMap((entry) => entry.parts).filter((one) => one.kind === "figure")) {
      const place = $(`figure-${part.name}`);
      place.style.minHeight = `${room(place, part.figure, part.figure.data.length).height}px`;
    }
  }

  function paint() {
    if (!window.Plotly) return; // it comes after the words, and everything is painted then
    if (shown) {
      for (const entry of shown.cards) {
        for (const part of entry.parts) {
          if (part.kind === "figure") draw($(`figure-${part.name}`), part.figure);
        }
      }
    }
    const near = ((shown && shown.near) || []).map((point) => ({
      type: "scatter", mode: "markers", name: point.name, x: [point.measured_s], y: [point.predicted_s],
      customdata: [point.text], hovertemplate: "%{customdata}<extra></extra>",
      marker: { size: 18, symbol: "star", color: "@ink", line: { width: 1.5, color: "@paper" } },
    }));
    if (page.accuracy) {
      $("accuracy").hidden = false;
      $("accuracy-text").textContent = `${page.accuracy.alt}.`;
      draw($("figure-accuracy"), page.accuracy, near);
    }
  }

  // -- a report: finished views -------------------------------------------------------------------------------

  function address(query) {
    return `${window.location.pathname}${query ? `?${query}` : ""}${window.location.hash}`;
  }

  function remember(question, replace) {
    const query = withKept(question);
    if (`?${query}` === window.location.search) return;
    try {
      if (replace) window.history.replaceState(null, "", address(query));
      else window.history.pushState(null, "", address(query));
    } catch (error) {
      if (error.name !== "SecurityError") throw error; // a page without an address of its own keeps no state
    }
  }

  function report() {
    const views = page.views;
    const chosen = () => {
      const wanted = Number(new URLSearchParams(window.location.search).get("result") || 1);
      return Number.isInteger(wanted) && wanted >= 1 && wanted <= views.length ? wanted : 1;
    };
    const select = element("select", { id: "choose-result" }, views.map((view, index) =>
      element("option", { value: String(index + 1), textContent: `${index + 1}. ${view.label}` })));
    const turn = () => {
      select.value = String(chosen());
      show(views[chosen() - 1]);
    };
    select.addEventListener("change", () => {
      remember(new URLSearchParams({ result: select.value }).toString(), false);
      show(views[Number(select.value) - 1]);
    });
    $("chooser").append(element("label", { textContent: "Result" }, [select]));
    $("chooser").hidden = views.length < 2;
    window.addEventListener("popstate", turn);
    turn();
  }

  // -- live: questions to the server --------------------------------------------------------------------------

  const MOST_KEPT = 3; // with the answer that is shown, four stand side by side
  let task = null; // whose controls are shown
  let kept = []; // questions whose answers stand beside this one, as queries
  const answers = new Map(); // what the server said to kept questions

  function controls() {
    return page.options.tasks.find((one) => one.value === (task || "")).controls;
  }

  function withKept(question) {
    return [question, ...kept.map((one) => `keep=${encodeURIComponent(one)}`)].filter(Boolean).join("&");
  }

  function taskControl() {
    const select = element("select", { id: "control-task", name: "task" }, page.options.tasks.map((one) =>
      element("option", { value: one.value, textContent: one.text })));
    select.addEventListener("change", (event) => {
      event.stopPropagation();
      const given = new URLSearchParams(select.value ? { task: select.value } : {});
      for (const name of ["model", "gpu"]) given.set(name, $(`control-${name}`).value);
      go(given);
      $("control-task").focus();
    });
    return element("div", { className: "field" }, [element("label", { textContent: "Task" }, [select])]);
  }

  // The controls of a task; others' are taken away.
  function build(wanted) {
    if (task === wanted) return;
    task = wanted;
    const also = task ? [] : [alsoControl()]; // other GPUs stand beside an inference
    $("question").replaceChildren(taskControl(), ...controls().map(control), ...also, element("div", { className: "other", id: "others" }));
    $("control-task").value = task;
  }

  function control(entry) {
    const attributes = { id: `control-${entry.name}`, name: entry.name };
    const number = entry.least === 0 ? { type: "text" } : { type: "number", min: "1", step: "1" }; // of layers "all" is one, too
    const made = entry.kind === "number"
      ? element("input", { ...attributes, ...number, inputMode: "numeric", placeholder: String(entry.default), autocomplete: "off" })
      : element("select", attributes, entry.choices.map((one) => element("option", { value: one.value, textContent: one.text })));
    made.setAttribute("aria-describedby", `wrong-${entry.name}`);
    const label = element("label", { textContent: entry.label }, [made]);
    return element("div", { className: "field" }, [label, element("span", { className: "wrong", id: `wrong-${entry.name}` })]);
  }

  function alsoControl() {
    const gpus = controls().find((entry) => entry.name === "gpu").choices;
    const select = element("select", { id: "also" }, [
      element("option", { value: "", textContent: "add a GPU" }),
      ...gpus.map((one) => element("option", { value: one.value, textContent: one.text })),
    ]);
    select.addEventListener("change", (event) => {
      event.stopPropagation();
      const given = entered();
      given.append("gpu", select.value);
      go(given);
    });
    return element("div", { className: "field" }, [element("label", { textContent: "Compare with" }, [select])]);
  }

  function examples() {
    return page.options.examples.map((one) => {
      const link = element("a", { href: `?${one.query}`, textContent: one.text });
      link.addEventListener("click", (event) => {
        if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a tab of its own
        event.preventDefault();
        go(new URLSearchParams(one.query));
      });
      return link;
    });
  }

  function query() {
    const given = new URLSearchParams(window.location.search);
    kept = given.getAll("keep").slice(0, MOST_KEPT);
    given.delete("keep");
    return [...given].length ? given : new URLSearchParams(page.options.start);
  }

  function fill(given) {
    const named = given.get("task") || "";
    build(page.options.tasks.some((one) => one.value === named) ? named : "");
    const known = new Set(["task", ...controls().map((entry) => entry.name)]);
    for (const entry of controls()) {
      const field = $(`control-${entry.name}`);
      const value = given.get(entry.name) || "";
      if (entry.kind === "choice" && ![...field.options].some((option) => option.value === value)) {
        field.append(element("option", { value, textContent: value || "choose" }));
      }
      field.value = value;
    }
    const others = [...given].filter(([name]) => !known.has(name));
    const compared = given.getAll("gpu").slice(1).map((value) => ["gpu", value]);
    $("others").replaceChildren(...[...compared, ...others].map(([name, value]) => chip(name, value, given)));
    if ($("also")) $("also").value = "";
  }

  // A part of the question that has no control: what it says, and a way to take it back.
  function chip(name, value, given) {
    const words = name === "gpu" ? `beside it: ${value}` : `${name} = ${value}`;
    const remove = element("button", { type: "button", textContent: `${words} ✕`, "aria-label": `Remove ${name} = ${value}` });
    remove.addEventListener("click", () => {
      const pairs = [...given];
      pairs.splice(pairs.findLastIndex(([one, its]) => one === name && its === value), 1);
      go(new URLSearchParams(pairs));
      ($("also") || $("control-task")).focus();
    });
    return remove;
  }

  function go(given) {
    opening = false;
    remember(given.toString(), false);
    fill(given);
    ask(given);
  }

  function entered() {
    const given = query();
    const compared = given.getAll("gpu").slice(1);
    for (const entry of controls()) {
      const value = $(`control-${entry.name}`).value.trim();
      if (value) given.set(entry.name, value);
      else given.delete(entry.name);
    }
    for (const gpu of compared) given.append("gpu", gpu);
    return given;
  }

  // Who chooses a model or a GPU first asks of their own, not how the opening example streams its weights.
  function leaveOpening(id) {
    const others = [...new URLSearchParams(page.options.start).keys()].filter((name) => name !== "model" && name !== "gpu");
    const chosen = id.replace("control-", "");
    if (opening && (chosen === "model" || chosen === "gpu")) for (const name of others) $(`control-${name}`).value = "";
    opening = opening && ![...others, "model", "gpu"].includes(chosen);
  }

  function changed(field) {
    clearTimeout(timer);
    const given = entered();
    if (given.toString() === asked) return;
    remember(given.toString(), field !== null && field === typed);
    typed = field;
    ask(given);
  }

  async function ask(given) {
    if (pending) pending.abort();
    const own = new AbortController();
    pending = own;
    asked = given.toString();
    $("status").textContent = "Predicting …";
    try {
      const answer = await fetch(`api/view?${given}`, { signal: own.signal, headers: { Accept: "application/json" } });
      const found = await answer.json();
      if (own.signal.aborted) return;
      if (answer.ok) {
        answers.set(given.toString(), found);
        show(found);
        tell(found.label, null);
        showKept();
      } else {
        tell("", found.error);
      }
    } catch (error) {
      if (error.name === "AbortError") return;
      asked = null; // the same may be asked again
      tell("", "The server does not answer: is llm-perf serve still running?");
    }
  }

  function tell(status, error) {
    $("status").textContent = status ? `Predicted: ${status}` : "";
    $("error").textContent = error || "";
    $("error").hidden = !error;
    $("result").classList.toggle("stale", Boolean(error));
    for (const entry of controls()) {
      const wrong = Boolean(error) && names(error, entry.name);
      const field = $(`control-${entry.name}`);
      field.setAttribute("aria-invalid", String(wrong));
      $(`wrong-${entry.name}`).textContent = wrong ? error : "";
    }
  }

  // Whether a message is about an input: it has its name as the flag or the field is written, or begins with the word.
  function names(error, name) {
    if (name.includes("_")) return new RegExp(`\\b${name.replaceAll("_", "[-_]")}\\b`).test(error);
    return new RegExp(`^(--|unknown |ambiguous )?${name}\\b`, "i").test(error);
  }

  // -- up to four answers side by side ----------------------------------------------------------------------------

  function tilesOf(view) {
    const parts = view.cards.flatMap((entry) => entry.parts);
    return new Map((parts.find((part) => part.kind === "tiles") || { tiles: [] }).tiles.map((tile) => [tile.name, tile]));
  }

  async function answered(question) {
    if (!answers.has(question)) {
      const answer = await fetch(`api/view?${question}`, { headers: { Accept: "application/json" } });
      const found = await answer.json();
      answers.set(question, answer.ok ? found : { label: found.error, cards: [] });
    }
    return answers.get(question);
  }

  function keep() {
    kept = [...kept, asked].slice(-MOST_KEPT);
    remember(asked, false);
    showKept();
  }

  function drop(question) {
    kept = kept.filter((one) => one !== question);
    remember(asked, false);
    showKept();
    $("keep").focus();
  }

  async function showKept() {
    $("keep").disabled = kept.length >= MOST_KEPT || kept.includes(asked);
    const now = asked;
    const questions = kept.filter((one) => one !== now);
    if (!questions.length) {
      $("kept").hidden = true;
      return;
    }
    let views = [];
    try {
      views = await Promise.all([now, ...questions].map(answered));
    } catch {
      return; // the server is gone, which the answer above says already
    }
    if (now !== asked) return;
    const tiles = views.map(tilesOf);
    const names = [...new Set(tiles.flatMap((one) => [...one.keys()]))];
    const all = [now, ...questions];
    const heads = views.map((view, number) => keptHead(`${view.label}${told(all, number)}`, number ? all[number] : null));
    const rows = names.map((name) => element("tr", {}, [
      element("th", { scope: "row", textContent: name }),
      ...tiles.map((one) => {
        const tile = one.get(name) || { value: "-" };
        return element("td", { textContent: tile.value, className: `right${tile.alarm ? " alarm" : ""}` });
      }),
    ]));
    const head = element("thead", {}, [element("tr", {}, [element("td"), ...heads])]);
    const scroll = element("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": "Table of the answers" },
      [element("table", {}, [head, element("tbody", {}, rows)])]);
    $("kept-table").replaceChildren(scroll);
    $("kept").hidden = false;
  }

  const IN_LABEL = new Set(["task", "model", "gpu", "system", "framework", "batch_size", "prompt_len", "gen_len", "num_gpus"]);

  // What one of several questions asks that another does not, where the label is silent about it.
  function told(all, number) {
    const others = all.filter((_, other) => other !== number).map((one) => new URLSearchParams(one));
    const own = [...new URLSearchParams(all[number])].filter(([name, value]) =>
      !IN_LABEL.has(name) && others.some((other) => other.get(name) !== value));
    return own.map(([name, value]) => `, ${name.replaceAll("_", " ")} ${value}`).join("");
  }

  function keptHead(label, question) {
    const cell = element("th", { scope: "col", className: "right" });
    if (question === null) {
      cell.append(label);
      return cell;
    }
    const link = element("a", { href: `?${withKept(question)}`, textContent: label });
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      go(new URLSearchParams(question));
    });
    const remove = element("button", { type: "button", textContent: "\u2715", "aria-label": `Remove ${label}` });
    remove.addEventListener("click", () => drop(question));
    cell.append(link, " ", remove);
    return cell;
  }

  // On a phone the answer stands before the controls, in the document too: the order of the keyboard is that of the eye.
  function arrange() {
    const bar = document.querySelector(".bar");
    if (narrow.matches) $("kept").after($("question"), $("examples"));
    else bar.before($("question"), $("examples"));
    $("jump").hidden = !narrow.matches;
  }

  function serve() {
    const form = $("question");
    form.tabIndex = -1; // the link to it leads there
    arrange();
    narrow.addEventListener("change", arrange);
    $("keep").hidden = false;
    $("keep").disabled = true; // until there is an answer
    $("keep").addEventListener("click", keep);
    form.hidden = false;
    $("examples").append("For example: ", ...examples());
    $("examples").hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", (event) => {
      leaveOpening(event.target.id);
      changed(event.target.tagName === "INPUT" ? event.target : null);
    });
    form.addEventListener("focusout", () => { typed = null; });
    form.addEventListener("input", (event) => {
      if (event.target.tagName !== "INPUT") return;
      clearTimeout(timer);
      timer = setTimeout(() => changed(event.target), DELAY_MS);
    });
    const turn = () => {
      typed = null;
      opening = ![...new URLSearchParams(window.location.search)].some(([name]) => name !== "keep");
      fill(query());
      ask(query());
    };
    window.addEventListener("popstate", turn);
    turn();
  }

  dark.addEventListener("change", paint);
  let resized = null;
  let width = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === width) return; // a phone's bars came or went
    width = window.innerWidth;
    clearTimeout(resized);
    resized = setTimeout(paint, DELAY_MS);
  });
  $("footer").textContent = `llm-perf ${page.version}. Predictions; the published runs beside them are measurements with a source each.`;
  document.body.classList.remove("waiting");
  const plotly = $("plotly");
  if (plotly && !window.Plotly) plotly.addEventListener("load", paint);
  if (page.mode === "serve") serve();
  else report();
})();
