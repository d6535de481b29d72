// Draws charts in the colours of the style sheet, again when the reader changes between light and dark.
const darkness = window.matchMedia("(prefers-color-scheme: dark)");
const charts = new Map();
const embed = window.vegaEmbed;

function readTheme() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const series = [1, 2, 3, 4, 5, 6].map((number) => colour(`series-${number}`));
  const shades = [colour("cell-low"), colour("cell-high")];
  return {
    background: "transparent",
    font: getComputedStyle(document.body).fontFamily,
    view: { stroke: null },
    mark: { color: series[0] },
    rect: { stroke: colour("card"), strokeWidth: 1 },
    title: { color: colour("ink"), fontSize: 14, fontWeight: 600, subtitleColor: colour("muted") },
    header: { labelColor: colour("muted"), titleColor: colour("muted"), labelFontSize: 12 },
    legend: { orient: "bottom", labelColor: colour("ink"), titleColor: colour("muted"), labelFontSize: 12, titleFontWeight: 500 },
    axis: {
      domain: false,
      ticks: false,
      gridColor: colour("grid"),
      labelColor: colour("muted"),
      titleColor: colour("muted"),
      labelFontSize: 12,
      titleFontSize: 12,
      titleFontWeight: 500,
      labelPadding: 6,
      titlePadding: 8,
      labelLimit: 96,
      labelOverlap: "greedy",
    },
    axisBand: { grid: false },
    range: { category: series, heatmap: shades, ramp: shades },
    style: {
      reading: { color: colour("muted"), strokeWidth: 1 },
      reference: { color: colour("muted"), strokeDash: [4, 4], strokeWidth: 1.5 },
      "low-cell": { color: colour("cell-low-ink") },
      "high-cell": { color: colour("cell-high-ink") },
    },
  };
}

async function draw(target, spec) {
  charts.get(target)?.view?.finalize();
  // The interpreter instead of compiled functions, which the page's security policy forbids.
  const drawn = await embed(target, spec, { ast: true, renderer: "svg", actions: false, config: readTheme() });
  charts.set(target, { spec, view: drawn.view });
  return drawn;
}

darkness.addEventListener("change", () => charts.forEach(({ spec }, target) => draw(target, spec)));
