"""The look of the tab Mix."""

__all__ = ["MIX"]

MIX = """
#mix-main { align-items: flex-start; gap: 1.25rem; }
#mix-side { position: sticky; top: .5rem; }
#mix-settings, #mix-side { gap: .7rem; }
.mix-examples { display: flex; flex-wrap: wrap; gap: .35rem; align-items: center;
  font-size: .8rem; color: var(--body-text-color-subdued); }
.mix-examples button { border: 1px solid var(--border-color-primary); border-radius: 99px;
  padding: .15rem .65rem; background: none; color: var(--body-text-color); cursor: pointer;
  font-size: .8rem; font-weight: 400; }
.mix-examples button:hover { border-color: var(--color-accent); }
.mix-examples button:focus-visible { outline: 2px solid var(--color-accent); }
.mix-head { font-weight: 600; font-size: .95rem; padding: .2rem .1rem 0; }
.mix-frame { margin: 0; border-radius: 10px; overflow: hidden; aspect-ratio: 1;
  max-height: min(72vh, 720px); display: flex; align-items: center; justify-content: center;
  background: var(--background-fill-secondary); border: 1px solid var(--border-color-primary); }
.mix-frame img { width: 100%; height: 100%; object-fit: contain; }
.mix-frame.none { padding: 1.5rem; color: var(--body-text-color-subdued); text-align: center; }
.mix-frame.none p { margin: .25rem auto; max-width: 34rem; overflow-wrap: anywhere; }
.mix-frame[role=alert] { color: var(--body-text-color); border-color: var(--error-border-color); }
.mix-note { min-height: 1.6rem; font-size: .9rem; color: var(--body-text-color-subdued);
  display: flex; gap: .75rem; align-items: center; flex-wrap: wrap; }
.mix-note a { color: var(--link-text-color); }
.mix-note progress { flex: 1; height: 6px; accent-color: var(--color-accent); min-width: 6rem; }
.mix-notice { padding: .6rem .8rem; border-radius: 8px; font-size: .9rem;
  border: 1px solid var(--border-color-accent); background: var(--background-fill-secondary); }
.mix-notice p { margin: .15rem 0; overflow-wrap: anywhere; }
.c0 { fill: #3b78c4; background: #3b78c4; } .c1 { fill: #d9822b; background: #d9822b; }
.c2 { fill: #4a9a5b; background: #4a9a5b; } .c3 { fill: #b8474d; background: #b8474d; }
.c4 { fill: #8a66b8; background: #8a66b8; } .c5 { fill: #8c7352; background: #8c7352; }
.mix-score { font-size: .85rem; display: flex; flex-direction: column; gap: .35rem; }
.mix-score .cost { color: var(--body-text-color); }
.mix-score .plot { display: flex; gap: .5rem; }
.mix-score .blocks { display: flex; flex-direction: column; width: 3.4rem; flex: none; }
.mix-score .blocks span { height: 14px; line-height: 14px; font-size: .72rem;
  color: var(--body-text-color-subdued); white-space: nowrap; }
.mix-score svg { flex: 1; min-width: 0; display: block;
  background: var(--background-fill-secondary); border-radius: 4px; }
.mix-score path.pale { opacity: .35; }
.mix-score path.line { fill: none; stroke: var(--background-fill-primary); stroke-width: 1;
  vector-effect: non-scaling-stroke; }
.mix-score .ends { display: flex; justify-content: space-between; padding-left: 3.9rem;
  font-size: .72rem; color: var(--body-text-color-subdued); }
.mix-score .legend { display: flex; flex-wrap: wrap; gap: .3rem 1rem; }
.mix-score .legend i { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px;
  margin-right: .35rem; vertical-align: -1px; }
.mix-cards { display: grid; gap: .5rem; max-height: 15rem; overflow-y: auto;
  padding: 2px; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 100%), 1fr)); }
.mix-cards button { display: flex; gap: .6rem; align-items: center; text-align: left;
  padding: .4rem;
  border: 1px solid var(--border-color-primary); border-radius: 8px; min-width: 0;
  background: var(--background-fill-primary); color: var(--body-text-color); cursor: pointer; }
.mix-cards button:hover:not(:disabled), .mix-history button:hover, button.cell:hover {
  border-color: var(--color-accent); }
.mix-cards button:focus-visible, .mix-history button:focus-visible, button.cell:focus-visible {
  outline: 2px solid var(--color-accent); outline-offset: 1px; }
.mix-cards button:disabled { opacity: .6; cursor: not-allowed; }
.mix-cards span { min-width: 0; display: flex; flex-direction: column; }
.mix-cards b { font-size: .9rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.mix-cards small { font-size: .76rem; line-height: 1.25; font-weight: 400;
  color: var(--body-text-color-subdued);  overflow-wrap: anywhere; }
.mix-picked { display: flex; gap: .6rem; align-items: center; min-width: 0; font-size: .9rem; }
.mix-picked > i { width: 4px; align-self: stretch; border-radius: 2px; }
.mix-picked div { min-width: 0; display: flex; flex-direction: column; }
.mix-picked b { overflow-wrap: anywhere; }
.mix-picked span { font-size: .78rem; color: var(--body-text-color-subdued); }
.mix-cards .face, .mix-picked .face { width: 44px; height: 44px; border-radius: 6px; flex: none;
  object-fit: cover; display: flex; flex-direction: row; align-items: center;
  justify-content: center; font-weight: 600; background: var(--background-fill-secondary); }
.mix-slot { border: 1px solid var(--border-color-primary) !important; border-radius: 8px;
  padding: .5rem !important; align-items: center; gap: .75rem; }
.mix-slot > .form { flex: 2 1 150px; border: 0 !important; background: none !important;
  box-shadow: none !important; min-width: 150px !important; }
.mix-face { flex: 3 1 190px !important; min-width: 190px !important; }
.mix-slot .block { border: 0 !important; padding: 0 !important; background: none !important; }
.mix-slot fieldset label { padding: .15rem .5rem !important; font-size: .8rem; }
#mix-frame .html-container, #mix-note .html-container, #mix-score .html-container,
#mix-history .html-container, #mix-examples .html-container,
#mix-notice .html-container { padding: 0; }
.mix-remove { max-width: 5rem !important; min-width: 5rem !important; flex: none !important; }
.mix-history { display: grid; gap: .5rem;
  grid-template-columns: repeat(auto-fill, minmax(5.5rem, 1fr)); }
.mix-history button, button.cell { padding: 0; border: 1px solid var(--border-color-primary);
  border-radius: 8px; overflow: hidden; aspect-ratio: 1; cursor: pointer; width: 100%;
  background: var(--background-fill-secondary); color: var(--body-text-color); }
.mix-history img, button.cell img { width: 100%; height: 100%; object-fit: cover; display: block; }
.mix-history .more { font-size: .85rem; }
.mix-table { overflow-x: auto; }
.mix-table table { border-collapse: separate; border-spacing: .35rem; width: 100%;
  table-layout: fixed; margin: 0; }
.mix-table td, .mix-table th { border: 0 !important; padding: 0 !important; min-width: 4.5rem;
  font-size: .8rem; font-weight: 500; overflow-wrap: anywhere; background: none !important; }
.mix-table th[scope=row] { text-align: right; padding-right: .35rem !important; }
.mix-table thead td, .mix-table th[scope=row] { width: 5.5rem; }
.mix-side { display: grid; gap: .6rem;
  grid-template-columns: repeat(auto-fit, minmax(min(9rem, 45%), 1fr)); }
.mix-side figure { margin: 0; } .mix-side figcaption { font-size: .82rem; padding-top: .2rem;
  text-align: center; overflow-wrap: anywhere; }
.cell.none { aspect-ratio: 1; border-radius: 8px; border: 1px dashed var(--border-color-primary);
  display: flex; align-items: center; justify-content: center; font-size: .75rem;
  color: var(--body-text-color-subdued); }
@media (max-width: 768px) {
  #mix-main { flex-flow: column-reverse nowrap; align-items: stretch; }
  #mix-main > .column { flex: none; width: 100%; min-width: 0 !important; }
  #mix-side { position: static; }
}
"""
