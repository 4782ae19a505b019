//! Two runs side by side.

use super::{
    embedded,
    markup::{Cell, Markup, classed, number, text},
    page,
};
use crate::{
    figures::Report,
    view::{
        assess,
        compare::{Comparison, Judgement, Row},
        words,
    },
};

/// The comparison of two runs as an HTML file; `a` and `b` are those that were compared.
pub fn comparison_html(comparison: &Comparison, a: &Report, b: &Report) -> String {
    let mut out = Markup::default();
    out.raw("<main>\n<header>\n").element("h1", &format!("{}: A and B", b.scenario.name));
    for (name, report) in [("A", a), ("B", b)] {
        let (scenario, word) = (&report.scenario, assess::verdict_word(report));
        let when = words::utc(report.started_unix_ms);
        let what = format!(
            "{name}: {}, seed {}, {} at {}",
            scenario.name, scenario.seed, scenario.adapter, scenario.target
        );
        out.element("p class=\"quiet\"", &format!("{what}, {when}: {word}"));
    }
    out.raw("</header>\n");
    out.raw(if comparison.is_worse() {
        "<section class=\"verdict bad\" aria-label=\"Verdict\">\n"
    } else {
        "<section class=\"verdict good\" aria-label=\"Verdict\">\n"
    });
    let sentence = comparison.sentence();
    let (word, rest) = sentence.split_once(": ").unwrap_or(("", &sentence));
    out.element("h2", word).element("p", rest);
    for warning in &comparison.warnings {
        out.element("p class=\"warning\"", warning);
    }
    out.raw("</section>\n");
    let (telling, rest): (Vec<_>, Vec<_>) =
        comparison.rows.iter().partition(|row| matches!(row.judgement, Judgement::Better | Judgement::Worse));
    let head = ["figure", "A", "B", "B/A", ""];
    let caption = "More than noise";
    out.raw("<section>\n").table(caption, &head, &telling.into_iter().map(cells).collect::<Vec<_>>());
    out.raw("<details><summary>Within noise, or not judged</summary>\n");
    out.table("Within noise, or not judged", &head, &rest.into_iter().map(cells).collect::<Vec<_>>());
    out.raw("</details>\n").element("p class=\"quiet\"", &comparison.rule()).raw("</section>\n");
    out.raw("<section>\n<h2>Over time</h2>\n<div class=\"charts\">\n");
    out.chart("messages", "Messages received a second", "All lanes.");
    out.chart("latency", "Latency, p95", "From due until received. Logarithmic.");
    out.chart("latency-p99", "Latency, p99", "From due until received. Logarithmic.");
    out.chart("cpu", "CPU of the server", "Cores used.");
    out.chart("memory", "Memory of the server", "Resident.");
    out.chart("errors", "Errors and refusals", "Each second.");
    out.raw("</div>\n</section>\n<section>\n<h2>Distributions</h2>\n<div class=\"charts\">\n");
    for lane in assess::lane_names(a).into_iter().filter(|lane| b.lanes.contains_key(*lane)) {
        out.chart(
            &format!("lane:{lane}"),
            &format!("Latency, {lane}"),
            "The share of messages that took no longer.",
        );
    }
    for stage in assess::stage_names(a).into_iter().filter(|stage| b.connect.stages.contains_key(*stage)) {
        let title = format!("Connecting until {}", stage.replace('_', " "));
        out.chart(&format!("stage:{stage}"), &title, "The share of users that had come so far.");
    }
    out.raw("</div>\n</section>\n</main>\n");
    let title = format!("{}: {}", word, b.scenario.name);
    page(&title, out, &[("report", embedded(a)), ("report-b", embedded(b))])
}

fn cells(row: &Row) -> Vec<Cell> {
    let class = match row.judgement {
        Judgement::Worse => "bad",
        Judgement::Better => "good",
        Judgement::Same | Judgement::Unjudged => "",
    };
    vec![
        text(&*row.name),
        number(row.unit.show(row.a)),
        number(row.unit.show(row.b)),
        number(row.ratio().map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"))),
        classed(row.judgement.word(), class),
    ]
}
