// One dialog shows any picture large; chosen run and step stand in the address, so that a reload finds them.
(() => {
  // What style.css blurs. Enter and the space bar on the button in it are clicks, too.
  const COVERED = ".veiled :is(.pic:not(.sanitized, .kept), .over-original, .over-recovered, .maps):not(.shown)," +
    ".veiled.whole .pic:not(.shown)";
  const open = (picture) => {
    let viewer = document.getElementById("viewer");
    if (!viewer) {
      viewer = document.createElement("dialog");
      viewer.id = "viewer";
      viewer.innerHTML = "<form method='dialog'><img alt=''><div class='viewer-line'><span></span>" +
        "<a class='viewer-save'>Save PNG</a><button>Close</button></div></form>";
      viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
      document.body.appendChild(viewer);
    }
    const image = picture.querySelector("img");
    viewer.querySelector("img").src = image.src;
    viewer.querySelector("img").alt = image.alt;
    viewer.querySelector("span").textContent = image.alt;
    const save = viewer.querySelector("a");
    save.href = image.src;
    save.download = (image.alt.replace(/[^a-z0-9]+/gi, "-").replace(/^-|-$/g, "") || "picture") + ".png";
    viewer.showModal();
  };
  document.addEventListener("click", (event) => {
    const veiled = event.target.closest(COVERED);
    if (veiled) {
      event.preventDefault();
      event.stopPropagation();
      veiled.classList.add("shown");
      if (event.target.matches(".uncover")) veiled.focus(); // the button goes away
      return;
    }
    const picture = event.target.closest(".pic-open");
    if (picture) { event.preventDefault(); event.stopPropagation(); open(picture); }
  }, true);
  // Radios of one group have different names here, so the browser's own arrow keys do not move among them.
  document.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    const group = by && event.target.matches("input[type=radio]") && event.target.closest("fieldset, .block");
    if (!group) return;
    const radios = [...group.querySelectorAll("input[type=radio]:not(:disabled)")];
    const next = radios[(radios.indexOf(event.target) + by + radios.length) % radios.length];
    event.preventDefault();
    next.focus();
    next.click();
  });
  // A screen reader is told what a run, an evaluation or a drawing has come to, not every number on the way:
  // a live region is read only where it stands before its text, so the texts are copied into one that stays.
  const sentence = (grid) => {
    const told = grid.querySelector(".sum");
    const images = grid.querySelectorAll(".sheet img");
    if (!images.length) return ["", ""];
    const words = told ? [...told.childNodes].filter((part) => !part.classList?.contains("fine")) : [];
    const text = words.map((part) => part.textContent).join("") || `${images.length} pictures are drawn.`;
    return [text, text + images[images.length - 1].src.slice(-64)];
  };
  const heading = (card) => { const text = card.querySelector("h3")?.textContent ?? ""; return [text, text]; };
  const places = { "run-card": heading, "evaluation-card": heading, "compare-grid": sentence };
  const heard = {};
  const listen = () => {
    const region = document.createElement("div");
    region.id = "said";
    region.className = "unseen";
    region.setAttribute("aria-live", "polite");
    document.body.appendChild(region);
    new MutationObserver(() => {
      for (const [name, read] of Object.entries(places)) {
        const place = document.getElementById(name);
        const [text, mark] = place ? read(place) : ["", ""];
        if (!mark || mark === heard[name]) continue;
        if (name in heard || name === "compare-grid") region.textContent = text; // what was there at first is no news
        heard[name] = mark;
      }
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  };
  if (document.body) listen(); else document.addEventListener("DOMContentLoaded", listen);
  let touched = false; // the first step "selects" itself while the page is built: no choice of the visitor's
  for (const kind of ["pointerdown", "keydown", "click"]) {
    document.addEventListener(kind, () => { touched = true; }, true);
  }
  window.kpopAt = (name, value) => {
    const address = new URL(window.location.href);
    if (!value || (name === "step" && !touched) || address.searchParams.get(name) === value) return;
    address.searchParams.set(name, value);
    window.history.replaceState(null, "", address);
  };
})();
