// Draws the figures of the page into their places.
const figures = JSON.parse(document.getElementById("figures").textContent);
const touch = matchMedia("(pointer: coarse)").matches;
for (const [number, figure] of figures.entries()) {
  if (touch) figure.layout.dragmode = false; // a finger scrolls the page, it does not zoom
  Plotly.newPlot(`chart-${number}`, figure.data, figure.layout, {
    responsive: true,
    displayModeBar: touch ? false : "hover",
    displaylogo: false,
    showSendToCloud: false, // plotly would offer to upload the chart
    plotlyServerURL: "",
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  });
}
