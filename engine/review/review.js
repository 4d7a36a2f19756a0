(() => {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const main = $("main");
  let question = null;
  let state = null;
  let busy = false;

  // Every text of the data set goes through textContent, so that markup in it is shown and never obeyed.
  const make = (tag, properties = {}, ...children) => {
    const { dataset, ...rest } = properties;
    const node = Object.assign(document.createElement(tag), rest);
    Object.assign(node.dataset, dataset);
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };
  const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
  const percent = (share) => `${(100 * share).toFixed(share > 0.995 || share < 0.1 ? 1 : 0)} %`;

  const say = (text, good = false) => {
    $("message").textContent = text;
    $("message").className = good ? "good" : "";
    $("message").hidden = !text;
  };

  const ask = async (path, body) => {
    const options = body === undefined ? {} : {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    };
    let answer;
    try {
      answer = await fetch(path, options);
    } catch {
      throw new Error("The server does not answer. Is asterism review still running?");
    }
    if (answer.status === 403) throw new Error(await answer.text());
    const tree = await answer.json();
    if (!answer.ok) throw new Error(tree.error);
    return tree;
  };

  const guarded = (work) => async (...values) => {
    if (busy) return;
    busy = true;
    try {
      await work(...values);
    } catch (error) {
      say(error.message);
    } finally {
      busy = false;
    }
  };

  const isPicture = (row) => row.image !== null;

  const rowTags = (row, side) => [
    row.row === side.medoid && side.size > 1 ? make("span", { className: "tag", textContent: "typical", title: "the row nearest to the middle" }) : null,
    row.confidence !== null && side.size > 1
      ? make("span", { className: "doubt", textContent: row.confidence.toFixed(2), title: "confidence: how sure the cluster is of this row" })
      : null,
  ];

  const showRows = (rows, side) => {
    const parts = [];
    const pictures = rows.filter(isPicture);
    const texts = rows.filter((row) => !isPicture(row));
    if (pictures.length) {
      parts.push(make("ul", { className: "pictures" }, ...pictures.map((row) => {
        const image = make("img", { src: row.image, alt: `row ${row.id}`, loading: "lazy" });
        const item = make("li", { className: row.row === side.asked ? "asked" : "", title: `row ${row.id}` }, image,
          make("span", {}, make("span", { textContent: row.id }), ...rowTags(row, side)));
        image.addEventListener("load", () => { if (image.naturalWidth < 64) item.classList.add("small"); });
        return item;
      })));
    }
    if (texts.length) {
      parts.push(make("ol", { className: "rows" }, ...texts.map((row) => make("li", { className: row.row === side.asked ? "asked" : "" },
        make("span", { className: "id", textContent: row.id, title: row.id }),
        make("span", { className: "text", textContent: row.text || "–" }), ...rowTags(row, side)))));
    }
    return parts;
  };

  const showSide = (side, title) => make("section", { className: "card" },
    make("h2", {}, make("a", { href: `#/cluster/${side.label}`, textContent: title }), make("span", { textContent: count(side.size, "row") })),
    ...showRows(side.rows, side),
    side.size > side.rows.length ? make("p", { className: "more", textContent: `and ${count(side.size - side.rows.length, "more row")}, less doubtful` }) : null);

  const words = {
    merge: (q) => ["Two clusters: are the marked rows the same?", [`Cluster ${q.labels[0]}`, `Cluster ${q.labels[1]}`]],
    split: (q) => ["Two parts of one cluster: are the marked rows the same?", [`Cluster ${q.labels[0]}, one part`, `Cluster ${q.labels[0]}, the other`]],
    sample: (q) => ["Are these two rows the same?", [`In cluster ${q.labels[0]}`, `In cluster ${q.labels[1]}`]],
  };

  const showQuestion = () => {
    keys("");
    if (question === null) {
      main.replaceChildren(make("div", { className: "empty" },
        make("h1", { textContent: "No question is left." }),
        make("p", { textContent: state.unapplied ? "Apply the answers: new clusters bring new questions." : "All that this run can ask has been answered." })));
      return;
    }
    const [title, names] = words[question.kind](question);
    const lead = make("p", { className: "lead" });
    if (question.kind === "sample") {
      lead.append("Drawn at random: such answers tell how far the scores can be trusted. They say ", make("b", { textContent: percent(question.chance) }), " for the same.");
    } else {
      lead.append("The scores say ", make("b", { textContent: percent(question.chance) }), ` for the same; ${count(question.pairs, "pair")} of rows at stake. Which other rows follow is what the scores contradict least.`);
    }
    const button = (decision, label, key) => {
      const node = make("button", { type: "button", className: decision }, label, " ", make("kbd", { textContent: key }));
      node.addEventListener("click", () => answer(decision));
      return node;
    };
    main.replaceChildren(
      make("h1", { textContent: title }), lead,
      make("div", { className: "answers" }, button("same", "Same", "S"), button("different", "Different", "D"), button("unsure", "Unsure", "U"),
        question.kind === "merge" ? joinButton() : null),
      make("div", { className: "sides" }, ...question.sides.map((side, number) => showSide(side, names[number]))));
  };

  const joinButton = () => {
    const node = make("button", { type: "button", title: "all rows of both clusters" }, "All of both the same ", make("kbd", { textContent: "M" }));
    node.addEventListener("click", join);
    return node;
  };

  const showState = () => {
    $("bar").style.width = `${100 * state.done}%`;
    $("progress").textContent = state.applying || `${count(state.answered, "answer")} · ${count(state.left, "question")} left`;
    $("progress").title = `Answers are in ${state.decisions}`;
    $("pending").textContent = state.unapplied;
    $("apply").disabled = Boolean(state.applying) || state.unapplied === 0;
    document.title = `${state.answered ? `${state.answered} · ` : ""}Review · Asterism`;
  };

  const take = (tree) => { state = tree.state; question = tree.question; showState(); };

  const showChanges = (changes) => {
    const list = make("ul", { className: "list" }, ...changes.changed.map((each) => {
      const from = each.from.map(([label, rows]) => `${count(rows, "row")} of cluster ${label}`).join(", ");
      return make("li", {}, make("a", { href: `#/cluster/${each.after}` }, make("span", { className: "text", textContent: `Cluster ${each.after}: ${from}` }),
        make("span", { className: "id", textContent: count(each.size, "row") })));
    }));
    main.replaceChildren(
      make("h1", { textContent: `${count(changes.num_changed, "cluster")} changed` }),
      make("p", { className: "numbers" },
        make("span", {}, make("b", { textContent: changes.clusters.toLocaleString("en") }), ` clusters, ${changes.clusters_before.toLocaleString("en")} before`),
        make("span", {}, make("b", { textContent: changes.joined.toLocaleString("en") }), " pairs joined"),
        make("span", {}, make("b", { textContent: changes.parted.toLocaleString("en") }), " pairs parted"),
        make("span", {}, make("b", { textContent: `${changes.seconds.toFixed(1)} s` }), " to apply")),
      changes.num_changed ? make("section", { className: "card" }, make("h2", { textContent: "Changed clusters, and where their rows were before" }), list) : null);
  };

  const answer = guarded(async (decision) => {
    if (question === null) return;
    say("");
    take(await ask("/api/answer", { rows: question.rows, place: question.place, decision }));
    showQuestion();
    scrollTo(0, 0);
  });

  const join = guarded(async () => {
    if (question === null || question.kind !== "merge") return;
    say("");
    take(await ask("/api/confirm", { labels: question.labels }));
    showQuestion();
    scrollTo(0, 0);
  });

  const undo = guarded(async () => {
    say("");
    take(await ask("/api/undo", {}));
    if (location.hash.length > 2) location.hash = "#/";
    showQuestion();
    say("The last answer is taken back.", true);
  });

  const apply = guarded(async () => {
    if (!state.unapplied || state.applying) return;
    say("");
    state = await ask("/api/apply", {});
    showState();
    while (state.applying) {
      await new Promise((resolve) => setTimeout(resolve, 300));
      state = await ask("/api/state");
      showState();
    }
    if (state.failure) throw new Error(state.failure);
    take(await ask("/api/question"));
    if (location.hash === "#/changes") showChanges(state.changes);
    else location.hash = "#/changes";
  });

  const preview = (each, words) => make("li", {}, make("a", { href: `#/cluster/${each.label}` },
    each.medoid.image ? make("img", { src: each.medoid.image, alt: "" }) : null,
    make("span", { className: "text", textContent: each.medoid.text || `Cluster ${each.label}` }),
    make("span", { className: "id", textContent: words })));

  const showCluster = async (label, start = 0) => {
    const cluster = await ask(`/api/cluster/${label}?start=${start}`);
    const side = { asked: -1, medoid: cluster.medoid.row, size: cluster.size };
    const numbers = [["confidence", cluster.confidence], ["mean score inside", cluster.cohesion], ["weakest link", cluster.weakest_score]]
      .filter(([, value]) => value !== null)
      .map(([name, value]) => make("span", {}, `${name} `, make("b", { textContent: value.toFixed(3) })));
    const confirm = make("button", { type: "button" }, "All one identity ", make("kbd", { textContent: "C" }));
    confirm.addEventListener("click", () => confirmCluster(label));
    const more = make("button", { type: "button", textContent: `${count(cluster.more, "more row")}` });
    more.addEventListener("click", guarded(() => showCluster(label, start + cluster.rows.length)));
    main.replaceChildren(
      make("h1", { textContent: `Cluster ${label}` }),
      make("p", { className: "numbers" }, make("span", {}, make("b", { textContent: cluster.size.toLocaleString("en") }), " rows"), ...numbers),
      cluster.size > 1 ? make("div", { className: "answers" }, confirm) : null,
      make("div", { className: "split" },
        make("section", { className: "card" }, make("h2", {}, "Rows", make("span", { textContent: cluster.size > 1 ? "the typical one, then the most doubtful first" : "" })),
          ...showRows(start ? cluster.rows : [cluster.medoid, ...cluster.rows], side), cluster.more ? make("p", { className: "more" }, more) : null),
        make("section", { className: "card" }, make("h2", { textContent: "Nearest clusters" }),
          cluster.neighbours.length
            ? make("ul", { className: "list" }, ...cluster.neighbours.map((each) => preview(each, `${count(each.size, "row")} · ${each.leaning} lean to it`)))
            : make("p", { className: "more", textContent: "None of its rows has a neighbour elsewhere." }))));
    scrollTo(0, 0);
  };

  const confirmCluster = guarded(async (label) => {
    say("");
    take(await ask("/api/confirm", { labels: [label] }));
    say(`Cluster ${label} is confirmed: its rows stay together.`, true);
  });

  const search = async (text) => {
    const cluster = /^#(\d+)$/.exec(text);
    if (cluster) { location.hash = `#/cluster/${cluster[1]}`; return; }
    const found = await ask(`/api/search?q=${encodeURIComponent(text)}`);
    const rows = found.rows.map((row) => preview({ label: row.label, medoid: row }, `row ${row.id} · cluster ${row.label}`));
    main.replaceChildren(make("h1", { textContent: `“${text}”` }),
      make("p", { className: "lead", textContent: rows.length ? `${count(rows.length, "row")} found; each leads to its cluster.` : "No row has this number, id or text. #12 leads to cluster 12." }),
      rows.length ? make("section", { className: "card" }, make("ul", { className: "list" }, ...rows)) : null);
    main.querySelector(".list a")?.focus();
  };

  const route = guarded(async () => {
    const [, place, value] = /^#\/(\w*)\/?(.*)$/.exec(location.hash) ?? [null, "", ""];
    if (state === null) take(await ask("/api/question"));
    if (place !== "search") $("query").value = "";
    if (place === "cluster") await showCluster(Number(value));
    else if (place === "search") await search(decodeURIComponent(value));
    else if (place === "changes" && state.changes) showChanges(state.changes);
    else showQuestion();
    keys(place);
  });

  const keys = (place) => {
    const all = { "": [["S", "same"], ["D", "different"], ["U", "unsure"], ["M", "all of both"], ["Z", "undo"], ["A", "apply"], ["/", "search"], ["1 2", "open a side"]],
      cluster: [["C", "confirm"], ["Z", "undo"], ["A", "apply"], ["/", "search"], ["Esc", "back to the questions"]] };
    const all_of = (key) => key !== "M" || (question !== null && question.kind === "merge");
    const shown = all[place]?.filter(([key]) => all_of(key)) ?? [["↑ ↓", "choose"], ["/", "search"], ["A", "apply"], ["Esc", "back to the questions"]];
    $("keys").replaceChildren(...shown.map(([key, text]) => make("span", {}, make("kbd", { textContent: key }), text)));
  };

  const move = (step) => {
    const links = [...main.querySelectorAll(".list a")];
    if (!links.length) return false;
    links[(links.indexOf(document.activeElement) + step + links.length) % links.length].focus();
    return true;
  };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const typing = event.target === $("query");
    if (event.key === "Escape") { $("query").blur(); say(""); location.hash = "#/"; return; }
    if (typing) return;
    const asking = location.hash.length <= 2;
    const label = /^#\/cluster\/(\d+)$/.exec(location.hash);
    const works = {
      s: () => asking && answer("same"), d: () => asking && answer("different"), u: () => asking && answer("unsure"), m: () => asking && join(),
      z: undo, a: apply, c: () => label && confirmCluster(Number(label[1])),
      1: () => asking && question && (location.hash = `#/cluster/${question.sides[0].label}`),
      2: () => asking && question && (location.hash = `#/cluster/${question.sides[1].label}`),
      "/": () => { $("query").focus(); $("query").select(); },
      ArrowDown: () => move(1), ArrowUp: () => move(-1),
    };
    const work = works[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!work) return;
    if (event.key === "/" || (event.key.startsWith("Arrow") && main.querySelector(".list a"))) event.preventDefault();
    work();
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = $("query").value.trim();
    $("query").blur();
    if (text) location.hash = `#/search/${encodeURIComponent(text)}`;
  });
  $("apply").addEventListener("click", apply);
  addEventListener("hashchange", route);
  route();
})();
