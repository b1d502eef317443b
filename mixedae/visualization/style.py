"""The style of a page: one column, light and dark theme, readable on a phone."""

STYLE = """
:root {
  --ground: #f6f7f9; --card: #ffffff; --ink: #1b2733; --soft: #566471; --line: #d9dfe5;
  --good: #12794f; --bad: #b3372c; --even: #8a6400; --note: #2563c9; --accent: #2563c9;
  --s0: #2563c9; --s1: #d9601a; --s2: #12875f; --s3: #a2429b; --s4: #a67c00; --s5: #0e8aa8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #11161c; --card: #1a2129; --ink: #e6ebf0; --soft: #9dabb8; --line: #323d48;
    --good: #52c893; --bad: #f0857a; --even: #e0b34d; --note: #78a9ff; --accent: #78a9ff;
    --s0: #78a9ff; --s1: #ff9a5c; --s2: #4fc796; --s3: #dd8cd8; --s4: #e0b34d; --s5: #5cc7e0;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; }
header, main { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 40px; }
h1 { font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.2; letter-spacing: -.015em; margin: 0 0 8px;
  text-wrap: balance; }
h2 { font-size: 1.3rem; line-height: 1.25; letter-spacing: -.01em; margin: 0 0 6px; }
p { margin: 0 0 12px; max-width: 72ch; }
header > p, .lead, figcaption { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: 6px 16px; padding: 6px 0 4px; font-size: .92rem; }
a { color: var(--accent); text-decoration-thickness: 1px; text-underline-offset: 3px; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 22px 24px;
  margin: 18px 0; }
.verdicts { list-style: none; margin: 12px 0 0; padding: 0; display: grid; gap: 12px 28px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr)); }
.verdicts li { display: flex; gap: 12px; align-items: flex-start; }
.verdicts p { margin: 2px 0 0; font-size: .95rem; }
.mark { flex: 0 0 26px; height: 26px; border-radius: 50%; display: grid; place-items: center; font-weight: 700;
  font-size: .9rem;
  color: var(--card); background: var(--note); }
.good .mark { background: var(--good); } .bad .mark { background: var(--bad); }
  .even .mark { background: var(--even); }
.facts { display: grid; gap: 10px 28px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 260px), 1fr));
  margin: 14px 0 0; }
.facts dt { color: var(--soft); font-size: .82rem; } .facts dd { margin: 0; overflow-wrap: anywhere;
  font-size: .95rem; }
.figures { display: grid; gap: 20px 28px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  margin: 14px 0; }
figure { margin: 0; min-width: 0; max-width: 560px; }
figure svg, figure img { width: 100%; height: auto; display: block; overflow: visible; }
figcaption { font-size: .88rem; margin-top: 4px; }
.scroll { overflow-x: auto; margin: 14px 0 4px; }
table { border-collapse: collapse; }
.numbers { width: 100%; font-variant-numeric: tabular-nums; }
.numbers th, .numbers td { padding: 8px 12px; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; }
.numbers th:first-child { text-align: left; padding-left: 0; white-space: normal; min-width: 9em; }
.numbers thead th { color: var(--soft); font-size: .84rem; font-weight: 600; }
.numbers tbody th { font-weight: 500; }
.numbers tbody tr:last-child > * { border-bottom: 0; }
.best { font-weight: 700; }
.pictures { width: 100%; border-spacing: 6px; border-collapse: separate; margin: -6px; }
.pictures th { color: var(--soft); font-size: .82rem; font-weight: 600; text-align: left; vertical-align: bottom; }
.pictures th[scope=row] { vertical-align: middle; }
.pictures td { padding: 0; min-width: var(--cell); vertical-align: top; }
.pictures img { display: block; width: 100%; max-height: 260px; object-fit: contain; object-position: left top; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 4px 16px; padding: 0; margin: 10px 0;
  font-size: .86rem; color: var(--soft); }
.legend i { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 6px;
  vertical-align: -1px; }
details { margin: 8px 0; } summary { cursor: pointer; color: var(--accent); }
pre { overflow-x: auto; background: var(--ground); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; margin: 8px 0; font-size: .84rem; line-height: 1.5; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
@media (max-width: 560px) { header, main { padding-left: 12px; padding-right: 12px; } section { padding: 18px 14px;
  } header { padding-top: 24px; } }
@media print {
  :root { --ground: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #ccc; }
  header, main { max-width: none; padding: 0; } section { border: 0; padding: 8px 0; } nav { display: none; }
  h2 { break-after: avoid; } figure, tr, .verdicts li { break-inside: avoid; }
}
"""
