"""The one style sheet: light and dark, wide and narrow, screen and paper."""

from __future__ import annotations

from supernet.plot import OP_COLOURS

_LIGHT = "--paper:#fff;--ink:#1b2430;--soft:#5f6b7a;--rule:#e2e6eb;--card:#f7f8fa;--node:#f4f4f4;--warn:#fff6e5"
_DARK = "--paper:#14181d;--ink:#e7eaee;--soft:#9aa5b3;--rule:#2c343d;--card:#1b2026;--node:#232a32;--warn:#2b2416"


def _operations(lighter: float) -> str:
    """The colours of the operations, mixed with a share of white."""

    def mixed(colour: str) -> str:
        parts = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
        return "#" + "".join(f"{round(part + (255 - part) * lighter):02x}" for part in parts)

    return ";".join(f"--{op}:{mixed(colour)}" for op, colour in OP_COLOURS.items())


STYLE = f"""
:root{{color-scheme:light dark;{_LIGHT};{_operations(0)}}}
@media screen and (prefers-color-scheme:dark){{:root{{{_DARK};{_operations(0.35)}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);overflow-wrap:break-word;
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}}
main{{max-width:66rem;margin:0 auto;padding:2.5rem 1.5rem 3rem}}
h1{{font-size:2.2rem;line-height:1.15;letter-spacing:-.02em;margin:.2rem 0 .5rem}}
h2{{font-size:1.25rem;letter-spacing:-.01em;margin:0 0 .9rem}}
h3{{font-size:.84rem;font-weight:600;margin:0;flex:1 1 100%}}
p{{margin:.5rem 0;max-width:46rem}}
section{{border-top:1px solid var(--rule);margin-top:2.4rem;padding-top:1.7rem}}
.kind{{font-size:.78rem;letter-spacing:.09em;text-transform:uppercase;color:var(--soft);margin:0}}
.facts,.note,figcaption,.tile small,footer{{color:var(--soft)}}
.note,footer{{font-size:.86rem}}
.tiles{{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.2rem,1fr));gap:.8rem;margin:1.6rem 0 0}}
.tile{{background:var(--card);border:1px solid var(--rule);border-radius:.6rem;padding:.75rem .9rem}}
.tile b{{display:block;font-size:1.45rem;line-height:1.25;font-weight:650;letter-spacing:-.01em;white-space:nowrap}}
.tile span{{display:block;font-size:.86rem;line-height:1.35}}
.tile small{{display:block;font-size:.76rem;line-height:1.35;margin-top:.15rem}}
aside{{background:var(--warn);border-left:4px solid var(--avg_pool_3x3);border-radius:.3rem;
padding:.8rem 1.1rem;margin:1.5rem 0 0}}
aside ul,.missing{{margin:.3rem 0 0;padding-left:1.1rem}}
code,pre{{font:.86em/1.5 ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace}}
code{{overflow-wrap:anywhere}}
pre{{background:var(--card);border:1px solid var(--rule);border-radius:.5rem;padding:.8rem 1rem;overflow-x:auto;
margin:.7rem 0}}
.two{{display:grid;grid-template-columns:minmax(0,1.2fr) minmax(0,1fr);gap:2rem;align-items:center}}
.two pre{{font-size:.76rem}}
.panels{{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1.5rem 1.6rem}}
figure{{margin:0}}
.panel figcaption{{display:flex;flex-wrap:wrap;gap:0 .9rem;font-size:.8rem;margin-bottom:.15rem}}
.panel h3,.key b{{color:var(--ink);font-weight:600}}
.key i{{display:inline-block;width:.62em;height:.62em;border-radius:50%;margin-right:.4em;background:currentColor}}
i.line0,.front{{color:var(--nor_conv_1x1)}}i.line1,.random{{color:var(--avg_pool_3x3)}}
i.line2,.best{{color:var(--skip_connect)}}i.line3,.mine{{color:var(--nor_conv_3x3)}}
.legend{{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;font-size:.86rem;margin:.2rem 0 .6rem}}
svg{{display:block;width:100%;height:auto}}
svg *{{stroke-linejoin:round}}
svg text{{fill:currentColor;font-family:inherit}}
.panel text{{font-size:10.5px;fill:var(--soft);font-variant-numeric:tabular-nums}}
.panel line{{stroke:var(--rule)}}
.panel path{{fill:none;stroke-width:1.7}}
.end{{text-anchor:end}}.middle{{text-anchor:middle}}
path.line0{{stroke:var(--nor_conv_1x1)}}circle.line0{{fill:var(--nor_conv_1x1)}}
path.line1{{stroke:var(--avg_pool_3x3)}}circle.line1{{fill:var(--avg_pool_3x3)}}
path.line2{{stroke:var(--skip_connect)}}circle.line2{{fill:var(--skip_connect)}}
path.line3{{stroke:var(--nor_conv_3x3)}}circle.line3{{fill:var(--nor_conv_3x3)}}
svg.cell{{max-width:34rem;margin:0 auto}}
svg.heat{{min-width:36rem;max-width:52rem}}svg.space{{min-width:32rem;max-width:52rem}}
img{{max-width:100%;background:#fff;border-radius:.4rem}}
.scroll{{overflow-x:auto}}
table{{border-collapse:collapse;font-size:.9rem;margin:.6rem 0}}
th,td{{text-align:left;padding:.34rem 1.3rem .34rem 0;border-bottom:1px solid var(--rule);vertical-align:top}}
th{{font-weight:600;color:var(--soft);font-size:.8rem}}
.number{{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}}
summary{{cursor:pointer;margin-top:.8rem}}
footer{{margin-top:2.4rem;border-top:1px solid var(--rule);padding-top:1rem}}
@media (max-width:46rem){{main{{padding:1.4rem 1rem 2rem}}h1{{font-size:1.7rem}}
.two{{grid-template-columns:minmax(0,1fr)}}
.tiles{{grid-template-columns:repeat(2,1fr);gap:.6rem}}.tile b{{font-size:1.2rem}}pre{{font-size:.75rem}}}}
@media print{{body{{font-size:10pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}}
main{{max-width:none;padding:0}}.panels{{grid-template-columns:repeat(3,1fr)}}
.tiles{{grid-template-columns:repeat(6,1fr);gap:.4rem}}.tile{{padding:.4rem .5rem}}.tile b{{font-size:1rem}}
svg.heat,svg.space{{min-width:0;max-width:34rem}}figure,.tile,table,aside,.two{{break-inside:avoid}}
h2{{break-after:avoid}}pre{{white-space:pre-wrap}}
.two{{grid-template-columns:1fr 1fr;gap:1rem}}.two pre{{white-space:pre;font-size:6.5pt;padding:.5rem}}}}
""".strip()
