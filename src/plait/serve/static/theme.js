// Runs before the first paint, so that a remembered theme does not flash.
try {
  const theme = JSON.parse(localStorage.getItem("plait.theme"));
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // no storage: the system's theme
}
