"""The style sheet of a page: light, dark and on paper."""

STYLE = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1e21;--soft:#5b6068;--line:#dcdfe4;--tint:#f5f6f8;--blue:#0072b2;
--orange:#b84f00;--warn:#fff6e6;--warn-line:#e0a030}
@media (prefers-color-scheme:dark){:root{--paper:#15171a;--ink:#e6e8eb;--soft:#a2a8b1;--line:#34383e;--tint:#1e2125;
--blue:#56b4e9;--orange:#f0914a;--warn:#2a2317;--warn-line:#a8782a}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,"Noto Sans",sans-serif;overflow-wrap:anywhere}
table{overflow-wrap:break-word}td.words{min-width:9rem}
main{max-width:54rem;margin:0 auto;padding:2rem 1.1rem 3rem}
.kind{margin:0;color:var(--blue);font-size:.8rem;font-weight:600;letter-spacing:.08em;text-transform:uppercase}
h1{margin:.15rem 0 .8rem;font-size:1.7rem;line-height:1.25;white-space:pre-wrap}
h2{margin:0 0 .6rem;font-size:1.15rem}
.claim{margin:0 0 1.2rem;font-size:1.25rem;line-height:1.5;border-left:4px solid var(--blue);padding-left:1rem}
section{margin-top:2.2rem}
.warn{background:var(--warn);border:1px solid var(--warn-line);border-radius:8px;padding:1rem 1.2rem .4rem}
ul{margin:.2rem 0 .8rem;padding-left:1.2rem}li{margin:.3rem 0}
.note,footer,small{color:var(--soft);font-size:.86rem}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;margin:0}
.tiles div{background:var(--tint);border-radius:8px;padding:.6rem .8rem}
.tiles dt{color:var(--soft);font-size:.8rem;line-height:1.3}.tiles dd{margin:.1rem 0 0;font-size:1.15rem;font-weight:600}
.tokens{display:flex;flex-wrap:wrap;gap:.6rem .45rem;margin:.6rem 0}
.token{display:inline-flex;flex-direction:column;align-items:center;max-width:100%}
.token b{padding:.12rem .5rem;border-radius:6px;border:1px solid var(--line);font-weight:500;white-space:pre-wrap;
-webkit-print-color-adjust:exact;print-color-adjust:exact}
.token.joined{margin-right:-.4rem}.token small{font-size:.72rem;line-height:1.35;font-variant-numeric:tabular-nums}
figure{margin:.4rem 0 .8rem}svg{display:block;width:100%;max-width:40rem;height:auto}
svg text{fill:var(--soft);font-size:12.5px}.grid{stroke:var(--line)}.axis{stroke:var(--soft)}
.curve{fill:none;stroke:var(--blue);stroke-width:2.2;stroke-linejoin:round}.curve.dashed{stroke-dasharray:2 5}
.beside{fill:none;stroke:var(--orange);stroke-width:1.7;stroke-dasharray:3 3}
.dot{fill:var(--blue)}.level{stroke:var(--orange);stroke-width:1.4;stroke-dasharray:6 4}svg .level-text{fill:var(--orange)}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.92rem;font-variant-numeric:tabular-nums}
table.wide{width:100%;min-width:44rem}table.wide td:nth-child(2){min-width:14rem;max-width:24rem}
th{color:var(--soft);font-weight:600;text-align:left;vertical-align:bottom}
th,td{padding:.3rem .9rem .3rem 0;border-bottom:1px solid var(--line)}td{vertical-align:top}
th.num,td.num{text-align:right;white-space:nowrap}td small{line-height:1.3}
.bad{color:var(--orange);font-weight:600}
pre{background:var(--tint);border-radius:8px;padding:.7rem .9rem;overflow-x:auto;max-height:18rem;font-size:.9rem}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.92em}
.facts{display:grid;grid-template-columns:minmax(8rem,14rem) 1fr;gap:.25rem 1rem;margin:0;font-size:.9rem}
.facts dt{color:var(--soft)}.facts dd{margin:0}
.pairs{display:grid;grid-template-columns:repeat(4,minmax(0,9rem));gap:.5rem;align-items:start}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15rem),1fr));gap:1rem}
.cards article{border:1px solid var(--line);border-radius:8px;padding:.7rem .8rem;font-size:.92rem;break-inside:avoid}
.cards h3{margin:0 0 .5rem;font-size:1rem}.cards p{margin:.5rem 0 0}.cards figure{margin:0}
.cards .pairs{grid-template-columns:repeat(2,minmax(0,1fr))}.cards .pairs span:nth-of-type(n+3){display:none}
.pairs span{color:var(--soft);font-size:.85rem}
img{width:100%;height:auto;display:block;border-radius:4px;image-rendering:pixelated}.sheet img{max-width:36rem}
figcaption{color:var(--soft);font-size:.86rem;margin-top:.3rem}
footer{margin-top:2.6rem;border-top:1px solid var(--line);padding-top:.8rem}
@media (max-width:36rem){.facts{grid-template-columns:1fr;gap:0}.facts dd{margin-bottom:.5rem}.claim{font-size:1.1rem}
h1{font-size:1.4rem}
svg text{font-size:15px}.pairs span:nth-of-type(n+3){display:none}
.pairs{grid-template-columns:repeat(2,minmax(0,1fr))}}
@media print{:root{--paper:#fff;--ink:#000;--soft:#444;--line:#bbb;--tint:#f4f4f4;--blue:#0072b2;--orange:#b84f00;--warn:#fff;
color-scheme:light}body{font-size:10.5pt}main{max-width:none;padding:0}.scroll{overflow:visible}table.wide{min-width:0}
pre{max-height:none;white-space:pre-wrap}section,tr,figure{break-inside:avoid}section:has(table.wide){break-inside:auto}}
"""
