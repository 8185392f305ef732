// Values under the pointer. The page is complete without it.
for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const { x: [low, high, left, right], lines } = JSON.parse(svg.dataset.chart);
  const cursor = svg.querySelector(".cursor"), output = svg.parentElement.querySelector("output");
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const place = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    const step = low + (place - left) / (right - left) * (high - low);
    const found = lines.map(([name, steps, values]) => {
      let best = 0;
      for (let i = 1; i < steps.length; i++)
        if (Math.abs(steps[i] - step) < Math.abs(steps[best] - step)) best = i;
      return { name, step: steps[best], value: values[best] };
    });
    const nearest = found.reduce((a, b) => Math.abs(b.step - step) < Math.abs(a.step - step) ? b : a).step;
    const at = left + (nearest - low) / (high - low) * (right - left);
    cursor.setAttribute("x1", at); cursor.setAttribute("x2", at);
    output.textContent = `step ${nearest}: ` + found.map((f) => `${f.name} ${f.value ?? "–"}`).join(", ");
  });
}
