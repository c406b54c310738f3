"""The style sheet of the report."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #fcfcfb; --card: #ffffff; --edge: #e4e3df; --ink: #1c1c1a; --muted: #66655f;
  --line: #2867c6; --good: #1a7a46; --bad: #b3261e; --alarm: #fff4dc; --alarm-edge: #d9a521;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161615; --card: #1e1e1c; --edge: #35342f; --ink: #ecebe6; --muted: #a3a19a;
    --line: #78aaf5; --good: #62c48f; --bad: #f28b82; --alarm: #322a14; --alarm-edge: #a57f22;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.25rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .8rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .5rem; }
h3 { font-size: .95rem; margin: 0; }
p { margin: .3rem 0 .9rem; max-width: 46rem; }
.muted, figcaption, caption, dt { color: var(--muted); }
.verdict { font-size: 1.1rem; margin-bottom: 1.4rem; }
.alarm { background: var(--alarm); border-left: 4px solid var(--alarm-edge); padding: .6rem .9rem; }
.alarm::first-letter { text-transform: uppercase; }
.scroll { overflow-x: auto; }
dl.facts {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: .8rem; margin: 0;
}
dl.facts div { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: .55rem .8rem; }
dt { font-size: .8rem; }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table.results { width: 100%; }
caption { text-align: left; caption-side: bottom; font-size: .85rem; padding-top: .5rem; }
.results th, .results td { padding: .5rem .9rem .5rem 0; border-bottom: 1px solid var(--edge); text-align: right; }
.results td { white-space: nowrap; }
.results th:first-child { text-align: left; }
.results thead th { font-size: .85rem; font-weight: 500; color: var(--muted); }
.results tbody th { font-weight: 500; }
.results tr.run th, .results .best { font-weight: 700; }
.results small { color: var(--muted); font-weight: 400; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(18.5rem, 100%), 1fr)); gap: 1rem; }
.charts figure {
  margin: 0; background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: .8rem;
}
.charts header { display: flex; justify-content: space-between; align-items: baseline; gap: .5rem; }
.charts header span { font-variant-numeric: tabular-nums; font-weight: 600; }
figcaption { font-size: .82rem; line-height: 1.4; }
svg { display: block; width: 100%; height: auto; margin: .3rem 0; }
svg text { fill: var(--muted); font-size: 11px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--edge); }
svg .reference { stroke: var(--muted); stroke-dasharray: 4 4; }
svg .line { fill: none; stroke: var(--line); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
svg .point rect { fill: transparent; }
svg .point circle { fill: var(--line); opacity: 0; }
svg .point:hover circle { opacity: 1; }
svg .end { fill: var(--line); stroke: var(--card); stroke-width: 2; pointer-events: none; }
.pictures th { font-size: .85rem; font-weight: 500; color: var(--muted); text-align: left; padding-right: .7rem; }
.pictures td { padding: 0 .4rem .4rem 0; }
.pictures img, .query img {
  display: block; width: 72px; height: 72px; object-fit: contain; border-radius: 4px; background: #8882;
}
img.pixels { image-rendering: pixelated; }
.queries {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(29.5rem, 100%), 1fr)); gap: .9rem 1.5rem;
}
.query { display: flex; gap: .4rem; overflow-x: auto; }
.query figure { margin: 0; width: 72px; flex: none; }
.query figure:first-child { margin-right: .8rem; }
.query figcaption { line-height: 1.3; overflow-wrap: anywhere; color: var(--muted); }
.right { color: var(--good); }
.wrong { color: var(--bad); }
details summary { cursor: pointer; font-weight: 600; margin-top: 2.8rem; }
pre {
  background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 1rem; overflow-x: auto;
  font: .82rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
"""
