"""How the tab Train looks: its pictures, the plot and the samples."""

__all__ = ["CSS"]

CSS = """
.studio-line { align-items: stretch; }
.studio-columns { gap: 2rem; }
.studio-fields { gap: .5rem; }
.studio-fields .block { min-width: min(190px, 100%) !important; flex: 1 1 190px !important; }
.studio-buttons { gap: .5rem; }
.studio-buttons button { flex: 0 1 auto; }
.studio-left-out { font-size: .9rem; border-left: 3px solid #d97706; padding-left: .75rem; }
.studio-left-out ul { margin: 0; padding-left: 1.1rem; }
.studio-drop .icon-wrap { display: none; }
.studio-thumbs .grid-wrap, .studio-grid .grid-wrap { height: auto; min-height: 0; }
.studio-thumbs .grid-wrap { max-height: 24rem; }
.studio-grid .grid-wrap { max-height: none; }
.studio-thumbs .grid-container {
  grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); grid-template-rows: none;
  grid-auto-rows: auto;
}
.studio-grid .grid-container { grid-template-rows: none; grid-auto-rows: auto; }
.studio-grid .grid-container { grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr)); }
.studio-large img { max-height: 60vh; max-width: 100%; min-width: min(256px, 100%); margin: 0; }
.studio-large { padding: .75rem; }
.studio-large p { margin: .25rem 0 0; }
.studio-cuts { display: flex; flex-wrap: wrap; gap: .5rem; margin: .25rem 0 .75rem; }
.studio-cuts span { position: relative; display: block; overflow: hidden; line-height: 0; }
.studio-cuts img { height: 84px; width: auto; margin: 0; }
.studio-cuts i {
  position: absolute; outline: 2px solid var(--color-accent); outline-offset: -2px;
  box-shadow: 0 0 0 999px rgb(0 0 0 / 60%);
}
.studio-run h3 { margin: 0; overflow-wrap: anywhere; }
.studio-run p { margin: .15rem 0; }
.studio-run p[role="alert"] { color: #b91c1c; overflow-wrap: anywhere; }
.dark .studio-run p[role="alert"] { color: #fca5a5; }
.studio-bar {
  height: .4rem; margin: .5rem 0; border-radius: 1rem; overflow: hidden;
  background: var(--border-color-primary);
}
.studio-bar i { display: block; height: 100%; background: var(--color-accent); }
.studio-plot {
  display: grid; grid-template-columns: 3.2rem 1fr; row-gap: .25rem; font-size: .75rem;
  color: var(--body-text-color-subdued); margin: .5rem 0;
}
.studio-plot svg { width: 100%; height: 180px; overflow: visible; }
.studio-plot .y { position: relative; }
.studio-plot .y span { position: absolute; right: .5rem; transform: translateY(50%); }
.studio-plot .x { grid-column: 2; display: flex; justify-content: space-between; }
.studio-plot path, .studio-plot polyline { fill: none; vector-effect: non-scaling-stroke; }
.studio-plot .grid { stroke: var(--border-color-primary); }
.studio-plot .mark { stroke: var(--color-accent); stroke-dasharray: 2 4; opacity: .6; }
.studio-plot .dots {
  stroke: var(--body-text-color-subdued); stroke-width: 3; stroke-linecap: round; opacity: .35;
}
.studio-plot polyline { stroke: var(--color-accent); stroke-width: 2; stroke-linejoin: round; }
.studio-samples figure { margin: .75rem 0 0; }
.studio-samples figcaption { margin-bottom: .25rem; overflow-wrap: anywhere; }
.studio-samples div { display: flex; gap: .4rem; overflow-x: auto; }
.studio-samples a {
  flex: 1 0 64px; max-width: 128px; text-align: center; font-size: .75rem;
  color: var(--body-text-color-subdued); text-decoration: none;
}
.studio-samples img {
  width: 100%; aspect-ratio: 1; object-fit: contain; margin: 0; border-radius: var(--radius-sm);
}
.studio-samples > div { display: block; }
.studio-list .wrap {
  flex-direction: column; flex-wrap: nowrap; max-height: 16rem; overflow-y: auto;
}
.studio-list label { width: 100%; }
"""
