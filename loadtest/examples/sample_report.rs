//! Writes the sample reports of the tests into a folder, as JSON and as HTML, to look at and for the browser tests.

use std::{env, fs, path::PathBuf};

use switchyard_loadtest::{figures::Report, view};

#[path = "../tests/views/sample.rs"]
mod sample;

fn main() -> anyhow::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        anyhow::bail!("usage: sample_report FOLDER");
    };
    fs::create_dir_all(&folder)?;
    let first = sample::report(1, 120, 1.0);
    let slower = sample::report(2, 120, 1.8);
    let mut evil = sample::report(3, 30, 1.0);
    let attack = "</script><script>globalThis.injected = true</script><img src=x onerror='injected = true'>";
    evil.scenario.name = attack.to_owned();
    evil.findings[0].sentence = attack.to_owned();
    evil.errors.insert(attack.to_owned(), 1);
    evil.timeline[4].rungs.insert(attack.to_owned(), 1);
    for (name, report) in [
        ("run", &first),
        ("slower", &slower),
        ("long", &sample::report(4, 7_000, 1.0)),
        ("evil", &evil),
        ("empty", &Report::default()),
    ] {
        fs::write(folder.join(format!("{name}.json")), serde_json::to_string_pretty(report)?)?;
        fs::write(folder.join(format!("{name}.html")), view::html(report))?;
    }
    let comparison = view::compare(&first, &slower);
    fs::write(folder.join("comparison.html"), view::comparison_html(&comparison, &first, &slower))?;
    print!("{}", view::text(&first));
    print!("\n{}", view::comparison_text(&comparison));
    Ok(())
}
