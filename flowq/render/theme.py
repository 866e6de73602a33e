"""Style sheets of SVG and HTML, written from the palette; light, and dark where the reader's
system asks for it."""

from __future__ import annotations

from flowq.render.palette import PALETTE, RUN_PALETTE, Look

FONTS = "Inter, ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"

LIGHT = {
    "paper": "#ffffff",
    "frame": "#f6f8fa",
    "rule": "#dfe4ea",
    "ink": "#1b2430",
    "soft": "#667180",
    "edge": "#a9b2bf",
    "strong": "#4a5563",
}
DARK = {
    "paper": "#11151a",
    "frame": "#171c23",
    "rule": "#2b323c",
    "ink": "#e8edf3",
    "soft": "#939eac",
    "edge": "#566170",
    "strong": "#c2cad4",
}


def looks() -> list[Look]:
    """Every look once, node states first."""
    return [*PALETTE.values(), RUN_PALETTE["PAUSED"]]


def svg_css() -> str:
    """Rules for a standalone SVG."""
    light = _svg_rules(LIGHT, dark=False)
    return f"{light}@media(prefers-color-scheme:dark){{{_svg_rules(DARK, dark=True)}}}"


def _svg_rules(tone: dict[str, str], dark: bool) -> str:
    rules = [
        f".fq-paper{{fill:{tone['paper']}}}",
        f".fq-title{{fill:{tone['ink']}}}",
        f".fq-soft{{fill:{tone['soft']}}}",
        f".fq-frame>rect{{fill:{tone['frame']};stroke:{tone['rule']}}}",
        f".fq-to{{stroke:{tone['edge']}}}.fq-m-to path{{fill:{tone['edge']}}}",
        f".fq-crit{{stroke:{tone['strong']}}}.fq-m-crit path{{fill:{tone['strong']}}}",
        f".fq-hub{{stroke:{tone['paper']}}}",
    ]
    for look in looks():
        line, fill, ink = _colours(look, dark)
        own = f".st-{look.css}>"
        rules.append(f"{own}.fq-box{{fill:{fill};stroke:{line}}}")
        rules.append(f"{own}.fq-name,{own}.fq-fact{{fill:{ink}}}")
        rules.append(f"{own}.fq-hub,{own}.fq-part,{own}.fq-glyph{{fill:{line}}}")
    return "".join(rules)


def html_css() -> str:
    """Rules for the canvas view; everything is below `.fq`, so it may stand in any page.

    The theme of a JupyterLab page goes before the reader's system.
    """
    light, dark = _tones(LIGHT, dark=False), _tones(DARK, dark=True)
    tones = (
        f".fq{{{light}}}@media(prefers-color-scheme:dark){{.fq{{{dark}}}}}"
        f"body[data-jp-theme-light=true] .fq{{{light}}}"
        f"body[data-jp-theme-light=false] .fq{{{dark}}}"
    )
    states = "".join(
        f".fq .st-{look.css}{{" + "".join(f"--{p}:var(--{look.css}-{p});" for p in _PARTS) + "}"
        for look in looks()
    )
    return tones + states + _LAYOUT


_PARTS = ("line", "fill", "ink")


def _tones(tone: dict[str, str], dark: bool) -> str:
    found = [f"--{name}:{value};" for name, value in tone.items() if name != "ink"]
    found.append(f"--text:{tone['ink']};color-scheme:{'dark' if dark else 'light'};")
    for look in looks():
        pairs = zip(_PARTS, _colours(look, dark), strict=True)
        found += [f"--{look.css}-{part}:{value};" for part, value in pairs]
    return "".join(found)


def _colours(look: Look, dark: bool) -> tuple[str, str, str]:
    if dark:
        return look.dark_line, look.dark_fill, look.dark_ink
    return look.line, look.fill, look.ink


_LAYOUT = """
.fq{font:13px/1.4 Inter,ui-sans-serif,system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
color:var(--text);background:var(--paper);border:1px solid var(--rule);border-radius:12px;
padding:18px 20px;overflow:auto;text-align:left;max-width:100%;box-sizing:border-box}
.fq *{box-sizing:border-box}
.fq-head{display:flex;flex-wrap:wrap;align-items:center;gap:6px 14px}
.fq .fq-head h2{font-size:17px;font-weight:600;margin:0;line-height:1.3;overflow-wrap:anywhere}
.fq-pill{border:1px solid var(--line);background:var(--fill);color:var(--ink);
border-radius:99px;padding:1px 10px;font-size:12px;font-weight:600;white-space:nowrap}
.fq-soft{color:var(--soft)}
.fq-bar{display:flex;height:6px;border-radius:3px;overflow:hidden;background:var(--rule);gap:1px}
.fq-bar i{background:var(--line);min-width:2px}
.fq-head+.fq-bar{margin:12px 0 8px}
.fq-legend{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:12px;color:var(--soft)}
.fq-legend b{color:var(--line);font-weight:600;margin-right:5px}
.fq-canvas{margin-top:16px}
.fq-canvas>.fq-group,.fq-canvas>div>.fq-group{width:fit-content;min-width:160px}
.fq-chain{display:flex;flex-wrap:wrap;align-items:center;row-gap:14px}
.fq-chain>*{flex:none;max-width:100%}
.fq-chain>*+*{margin-left:34px;position:relative}
.fq-chain>*+*::before{content:"";position:absolute;left:-28px;top:50%;width:20px;
border-top:1.5px solid var(--edge)}
.fq-chain>*+*::after{content:"";position:absolute;left:-14px;top:calc(50% - 3px);width:7px;
height:7px;border:solid var(--edge);border-width:1.5px 1.5px 0 0;transform:rotate(45deg)}
.fq-node{display:inline-flex;flex-direction:column;border:1px solid var(--line);
background:var(--fill);color:var(--ink);border-radius:8px;padding:6px 12px;min-width:72px}
.fq-node b{font-weight:600;overflow-wrap:anywhere;max-width:300px}
.fq-node small{font-size:11.5px;opacity:.92;white-space:nowrap}
.fq-node .fq-bar{margin:4px 0;min-width:120px}
.fq-node.fq-critical{box-shadow:inset 0 0 0 1px var(--line)}
.fq-node.st-skipped,.fq-node.st-revoked{border-style:dashed}
.fq-node.fq-many{box-shadow:3px 3px 0 -1px var(--fill),3px 3px 0 0 var(--line)}
.fq-group{border:1px solid var(--rule);background:var(--frame);border-radius:12px;
padding:8px 14px}
.fq-group>summary{cursor:pointer;display:flex;align-items:center;gap:10px;font-size:12px;
font-weight:600;color:var(--soft);list-style:none;white-space:nowrap}
.fq-group>summary::-webkit-details-marker{display:none}
.fq-group>summary::before{content:"";flex:none;width:6px;height:6px;border:solid currentColor;
border-width:0 1.6px 1.6px 0;transform:rotate(-45deg)}
.fq-group[open]>summary::before{transform:rotate(45deg) translate(-1px,-1px)}
.fq-group>summary .fq-bar{width:64px;flex:none}.fq-group.fq-big>summary .fq-bar{width:160px}
.fq-group>summary span{font-weight:400}
.fq-column{display:flex;flex-direction:column;align-items:stretch;gap:9px;margin:9px 0 6px}
.fq-column>.fq-chain{flex-wrap:nowrap}
.fq-grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(120px,1fr));gap:8px;
margin:9px 0 6px;width:min(760px,80vw)}
.fq-look{display:flex;flex-wrap:wrap;gap:8px;margin:9px 0 6px;max-width:760px}
.fq-links{display:inline-grid;grid-template-rows:1fr auto 1fr;justify-items:start}
.fq-links>:first-child{grid-row:2}
.fq-flat{align-items:flex-start}
.fq-flat .fq-node{min-height:47px;justify-content:center}
.fq-flat>.fq-links{grid-template-rows:0 auto auto}
.fq-chain.fq-flat>*+*::before{top:24px}
.fq-chain.fq-flat>*+*::after{top:21px}
.fq-hangs{grid-row:3;display:flex;flex-direction:column;align-items:flex-start;gap:9px;
padding-top:9px}
.fq-hang{margin-left:30px;position:relative}
.fq-hang::before{content:"";position:absolute;left:-15px;top:-10px;bottom:50%;width:13px;
border:solid var(--edge);border-width:0 0 1.5px 1.5px;border-radius:0 0 0 7px}
.fq-hang.fq-err::before{border-style:dashed;border-color:var(--failure-line)}
.fq-hang:not(:last-child)::after{content:"";position:absolute;left:-15px;top:50%;bottom:-10px;
border-left:1.5px solid var(--edge)}
.fq-flow{overflow-x:auto;max-width:100%}
.fq-flow svg{display:block}
.fq-note{margin-top:10px;color:var(--soft);overflow-wrap:anywhere}
.fq ul.fq-errors{margin:16px 0 0;padding:0;list-style:none;border-top:1px solid var(--rule)}
.fq ul.fq-errors li{margin:0;padding:7px 0 0;list-style:none;overflow-wrap:anywhere}
.fq ul.fq-errors b{color:var(--failure-line);margin-right:8px}
.fq ul.fq-errors li code,.fq .fq-note code{color:var(--text);background:none;padding:0;
font:12px/1.4 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
.fq svg .fq-box{fill:var(--fill);stroke:var(--line)}
.fq svg .fq-name,.fq svg .fq-fact{fill:var(--ink)}
.fq svg .fq-hub,.fq svg .fq-part{fill:var(--line)}.fq svg .fq-hub{stroke:var(--paper)}
.fq svg .fq-soft{fill:var(--soft)}
.fq svg .fq-frame>rect{fill:var(--frame);stroke:var(--rule)}
.fq svg .fq-to{stroke:var(--edge)}.fq svg .fq-crit{stroke:var(--strong)}
.fq svg .fq-m-to path{fill:var(--edge)}.fq svg .fq-m-crit path{fill:var(--strong)}
"""
