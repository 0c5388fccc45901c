// The map of the embeddings: points by cluster, selection or difficulty; the picture of the one under the pointer.
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("map-data").textContent);
  const plot = document.getElementById("map-plot");
  const control = (name) => document.getElementById(`map-${name}`);
  const [coreset, cluster, colour, only] = ["coreset", "cluster", "colour", "only"].map(control);
  const picture = control("picture");
  const caption = control("caption");
  const count = control("count");
  const palette = ["#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#9498a0"];
  const accent = "#2f6fde", faint = "#9aa3af";

  function paint(points, isSelected) {
    if (colour.value === "difficulty") {
      return { color: points.map((point) => data.difficulty[point]), colorscale: "Viridis", cmin: 0, cmax: 1 };
    }
    if (colour.value === "cluster" && data.cluster) {
      return { color: points.map((point) => palette[data.cluster[point] % palette.length]) };
    }
    return { color: isSelected ? accent : faint };
  }

  function trace(points, isSelected) {
    return {
      type: "scattergl",
      mode: "markers",
      name: isSelected ? "selected" : "not selected",
      x: points.map((point) => data.x[point]),
      y: points.map((point) => data.y[point]),
      customdata: points,
      hoverinfo: "none",
      marker: {
        ...paint(points, isSelected),
        size: isSelected ? 8 : 4,
        opacity: isSelected ? 1 : 0.45,
        line: isSelected ? { width: 1, color: "#111827" } : { width: 0 },
      },
    };
  }

  function draw() {
    const chosen = new Set(data.selected[coreset.value] || []);
    const shown = data.x.map((_, point) => point).filter((point) => cluster.value === "" || String(data.cluster[point]) === cluster.value);
    const selected = shown.filter((point) => chosen.has(point));
    const others = only.checked ? [] : shown.filter((point) => !chosen.has(point));
    count.textContent = `${(selected.length + others.length).toLocaleString("en")} shown, ${selected.length.toLocaleString("en")} of them selected`;
    const axis = { showgrid: false, zeroline: false, showticklabels: false };
    const layout = {
      height: 520,
      margin: { l: 8, r: 8, t: 28, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: "#7b8491", family: "system-ui, sans-serif" },
      legend: { orientation: "h", y: 1.06 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: faint, activecolor: accent },
      xaxis: axis,
      yaxis: { ...axis, scaleanchor: "x" },
      uirevision: "the same view",
    };
    Plotly.react(plot, [trace(others, false), trace(selected, true)], layout, { displaylogo: false, responsive: true, scrollZoom: true });
  }

  function show(point) {
    const words = [data.id[point]];
    if (data.cluster) words.push(`cluster ${data.cluster[point]}`);
    if (data.aum) words.push(`AUM ${data.aum[point].toFixed(2)}`);
    if ((data.selected[coreset.value] || []).includes(point)) words.push("selected");
    caption.textContent = words.join(", ");
    picture.hidden = !data.picture[point];
    if (data.picture[point]) picture.src = data.picture[point];
    picture.alt = data.id[point];
  }

  draw();
  plot.on("plotly_hover", (event) => show(event.points[0].customdata));
  for (const one of [coreset, cluster, colour, only]) one.addEventListener("change", draw);
})();
