// The page's charts, once its parts are there; then, if the page is being watched, the page again.
async function drawAll() {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const places = [...document.querySelectorAll(".chart")];
  await Promise.all(places.map((place, index) => draw(place, specs[index])));
}

// A page from a file may not fetch anything, itself included, but it may be loaded again.
function keepLoading(seconds) {
  history.scrollRestoration = "manual";
  const kept = JSON.parse(sessionStorage.getItem("kept") ?? "null");
  if (kept !== null) {
    document.querySelectorAll("details").forEach((part, index) => (part.open = kept.open[index] ?? false));
    window.scrollTo(0, kept.top);
  }
  const load = () => {
    if (document.hidden) return;
    const open = [...document.querySelectorAll("details")].map((part) => part.open);
    sessionStorage.setItem("kept", JSON.stringify({ top: window.scrollY, open }));
    location.reload();
  };
  setTimeout(load, seconds * 1000);
  document.addEventListener("visibilitychange", load);
}

document.addEventListener("DOMContentLoaded", async () => {
  await drawAll();
  const seconds = Number(document.documentElement.dataset.refresh);
  if (seconds > 0) keepLoading(seconds);
  document.documentElement.dataset.state = "drawn";
});
