(() => {
  "use strict";
  const root = document.documentElement;
  const asked = new URLSearchParams(location.search).get("theme");
  if (asked === "dark" || asked === "light") root.dataset.theme = asked;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // On a phone sections are folded; a link into one opens it.
  const phone = matchMedia("(max-width: 640px)");
  const folds = [...document.querySelectorAll(".fold")];
  const fold = () => { for (const each of folds) each.open = !phone.matches; };
  const reveal = (link) => {
    const target = link && document.getElementById(link.slice(1));
    const around = target && (target.querySelector(".fold") || target.closest(".fold"));
    if (around) around.open = true;
  };
  fold();
  reveal(location.hash);
  phone.addEventListener("change", fold);
  addEventListener("beforeprint", () => { for (const each of folds) each.open = true; });
  document.addEventListener("click", (event) => {
    const link = event.target instanceof Element ? event.target.closest('a[href^="#"]') : null;
    if (link) reveal(link.getAttribute("href"));
  });

  // The list of clusters: packed columns, of which a page is shown at a time.
  const PAGE = 50, NONE = 255;
  for (const list of document.querySelectorAll(".list")) (async () => {
    const count = Number(list.dataset.count);
    const bytes = Uint8Array.from(atob(list.dataset.clusters), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const held = await new Response(stream).arrayBuffer();
    const columns = {
      label: new Uint32Array(held, 0, count), size: new Uint32Array(held, 4 * count, count),
      cohesion: new Uint8Array(held, 8 * count, count), weakest: new Uint8Array(held, 9 * count, count),
    };
    for (let i = 1; i < count; i++) columns.label[i] += columns.label[i - 1];
    const body = list.querySelector("tbody"), output = list.querySelector("output"), input = list.querySelector("input");
    let order = Uint32Array.from(columns.label.keys()), first = 0, sorted = "", down = false;
    const write = (name, i) => {
      const value = columns[name][i];
      if (name === "label" || name === "size") return value.toLocaleString("en");
      return value === NONE ? "–" : (value / (NONE - 1)).toFixed(2);
    };
    const draw = () => {
      const asked = input.value.trim().replaceAll(",", "");
      const shown = asked === "" ? order : order.filter((i) => String(columns.label[i]).startsWith(asked));
      first = Math.max(0, Math.min(first, shown.length - 1));
      first -= first % PAGE;
      body.replaceChildren(...[...shown.subarray(first, first + PAGE)].map((i) => {
        const row = document.createElement("tr");
        for (const name of Object.keys(columns)) row.insertCell().textContent = write(name, i);
        return row;
      }));
      const last = Math.min(first + PAGE, shown.length);
      output.textContent = shown.length ? `${(first + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "none";
    };
    const sort = (name) => {
      down = name === sorted ? !down : name === "size";
      sorted = name;
      const values = columns[name], sign = down ? -1 : 1;
      order.sort((a, b) => sign * (values[a] - values[b]) || a - b);
      for (const each of list.querySelectorAll("[data-sort]")) each.dataset.way = each.dataset.sort === name ? (down ? "↓" : "↑") : "";
      first = 0;
      draw();
    };
    for (const each of list.querySelectorAll("[data-sort]")) each.addEventListener("click", () => sort(each.dataset.sort));
    for (const each of list.querySelectorAll("[data-step]")) each.addEventListener("click", () => { first += PAGE * Number(each.dataset.step); draw(); });
    input.addEventListener("input", () => { first = 0; draw(); });
    sort("weakest");
  })();

  // A click on a picture shows it at its own size.
  document.addEventListener("click", (event) => {
    const picture = event.target instanceof Element ? event.target.closest(".montage img") : null;
    if (!picture) return;
    const dialog = document.createElement("dialog"), large = picture.cloneNode(), caption = document.createElement("p");
    dialog.className = picture.closest(".pixelated") ? "large pixelated" : "large";
    large.removeAttribute("class");
    caption.textContent = picture.alt;
    dialog.append(large, caption);
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
  });

  const tip = document.getElementById("tip");
  const show = (event) => {
    const mark = event.target instanceof Element ? event.target.closest("[data-tip]") : null;
    tip.hidden = mark === null;
    if (mark === null) return;
    tip.textContent = mark.dataset.tip;
    const box = tip.getBoundingClientRect();
    const x = Math.min(Math.max(8, event.clientX - box.width / 2), innerWidth - box.width - 8);
    const above = event.clientY - box.height - 14;
    tip.style.transform = `translate(${x}px, ${above < 8 ? event.clientY + 18 : above}px)`;
  };
  for (const kind of ["pointermove", "pointerdown"]) document.addEventListener(kind, show);
  document.addEventListener("pointerleave", () => { tip.hidden = true; });
  addEventListener("scroll", () => { tip.hidden = true; }, { passive: true });
})();
