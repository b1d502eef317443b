"""Style and script of the browse page."""

from __future__ import annotations

# Okabe and Ito's colours without black and grey: told apart with any colour vision. They stand on photographs, so each
# line has a dark rim, in the light and in the dark theme.
COLOURS = ('#e69f00', '#56b4e9', '#2fbf91', '#f0e442', '#cc79a7', '#ff7f3f', '#3d8bfd')

STYLE = """
.chips { display: flex; flex-wrap: wrap; gap: 8px; margin: 12px 0; padding: 0; position: sticky; top: 0; z-index: 2;
  background: var(--card); padding: 8px 0; }
.chips button { font: inherit; font-size: .9rem; padding: 6px 12px; min-height: 36px; border-radius: 18px;
  border: 1px solid var(--soft); background: transparent; color: var(--ink); cursor: pointer; }
.chips button[aria-pressed=true] { background: var(--accent); border-color: var(--accent); color: var(--card); }
.scenes { display: grid; gap: 28px 24px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); }
.scene { min-width: 0; max-width: none; }
.view { position: relative; width: 100%; }
.view img, .view svg { position: absolute; inset: 0; width: 100%; height: 100%; display: block; }
.view svg { overflow: hidden; }
.view rect { fill: none; vector-effect: non-scaling-stroke; }
.rim { stroke: #000; stroke-opacity: .55; }
.box { stroke-width: 1.4; stroke-dasharray: 2 2; } .window { stroke-width: 3; } .drawn { stroke-width: 1.2; }
.rim.window { stroke-width: 5; } .rim.drawn { stroke-width: 2.6; }
.rejected .box { stroke: #fff; stroke-width: 1.6; stroke-dasharray: 5 3; }
.rejected .rim { stroke-width: 3; stroke-dasharray: none; }
.o text { font-weight: 700; fill: #fff; stroke: #000; stroke-width: .28em; paint-order: stroke;
  stroke-linejoin: round; }
#outcomes :is(td, th):last-child { text-align: left; white-space: normal; }
.crops { display: flex; flex-wrap: wrap; gap: 10px; margin-top: 8px; }
.crops > div { display: flex; flex-wrap: wrap; gap: 3px; border-left: 5px solid; padding-left: 4px;
  max-width: 100%; }
.crops img { width: 92px; height: auto; display: block; }
.crops p { flex-basis: 100%; font-size: .78rem; color: var(--soft); margin: 0; }
.off, .no-masks .masks { display: none !important; }
@media (max-width: 560px) { .crops img { width: 74px; } }
"""

# Buttons choose one outcome (or all): objects of others vanish, and scenes that have none of it.
SCRIPT = """
const chosen = document.querySelectorAll('.chips button[data-reason]');
chosen.forEach(button => button.addEventListener('click', () => {
  const reason = button.dataset.reason;
  chosen.forEach(other => other.setAttribute('aria-pressed', other === button));
  document.querySelectorAll('.o').forEach(o => o.classList.toggle('off', reason && o.dataset.reason !== reason));
  document.querySelectorAll('.scene').forEach(scene =>
    scene.classList.toggle('off', reason && !scene.dataset.reasons.split(',').includes(reason)));
}));
const masks = document.querySelector('.chips button[data-masks]');
if (masks) masks.addEventListener('click', () => {
  const hidden = document.body.classList.toggle('no-masks');
  masks.setAttribute('aria-pressed', !hidden);
});
"""
