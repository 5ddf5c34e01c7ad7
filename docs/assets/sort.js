// Tables of ten rows and more are sorted by a click on a head, and by another click in the other direction. Numbers come
// before texts, and empty cells last, in both directions.
document$.subscribe(() => {
  const key = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = /^[\d.,]+/.test(text) ? Number.parseFloat(text.replace(/,/g, "")) : Number.NaN;
    return Number.isNaN(number) ? { rank: text ? 1 : 2, text } : { rank: 0, number };
  };
  const compare = (a, b) => (a.rank === 0 ? a.number - b.number : a.text.localeCompare(b.text));
  for (const table of document.querySelectorAll(".md-typeset table:not([class]):not([data-sortable])")) {
    const body = table.tBodies[0];
    if (!body || body.rows.length < 10 || !table.tHead) continue;
    table.dataset.sortable = "";
    for (const head of table.tHead.rows[0].cells) {
      head.tabIndex = 0;
      head.title = "Sort by this column";
      const sort = () => {
        const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
        const rows = [...body.rows].map((row) => [key(row, head.cellIndex), row]);
        rows.sort(([a], [b]) => a.rank - b.rank || sign * compare(a, b));
        body.append(...rows.map(([, row]) => row));
      };
      head.addEventListener("click", sort);
      head.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") {
          event.preventDefault();
          sort();
        }
      });
    }
  }
});
