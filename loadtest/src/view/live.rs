//! The progress of a run as lines of text: for a terminal, where they are redrawn in place, and for a log, where each
//! second is one line that can be searched.
//!
//! Pure: [`Live`] is told of each second and gives text for a size that it is told. [`crate::view::terminal`] writes it.

use std::collections::{BTreeMap, VecDeque};

use console::{Alignment, Style, measure_text_width, pad_str, truncate_str};

use super::{
    assess::{self, Trust},
    table::{in_words, plain},
    words::{self, count, ms, percent, short},
};
use crate::figures::{ScenarioSummary, Second, Times};

/// Seconds that the small chart of the latency shows.
const MINUTE: usize = 60;
/// Where the text begins, behind the names of the lines.
const INDENT: usize = 10;
/// The narrowest that is drawn; on less, lines are cut.
const NARROWEST: usize = 40;
/// From this width on there are bars beside numbers.
const WIDE: usize = 64;

/// What a run is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Users arrive.
    #[default]
    Ramping,
    /// All are there.
    Holding,
    /// Nothing more is sent; what is under way arrives.
    Draining,
    /// It is over.
    Over,
}

/// How a run stands at the end of a second.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// What the run is doing.
    pub phase: Phase,
    /// Until that is over, in seconds, as far as it is known.
    pub left_s: Option<f64>,
    /// The latest second.
    pub second: Second,
    /// Users that were to have come by now, that came, and that gave up.
    pub planned: u64,
    /// See `planned`.
    pub joined: u64,
    /// See `planned`.
    pub failed: u64,
    /// Messages since the beginning, all lanes.
    pub sent: u64,
    /// See `sent`.
    pub received: u64,
    /// Latency of the last seconds.
    pub recent: Times,
    /// Latency since the beginning.
    pub all: Times,
    /// Why connections failed, since the beginning.
    pub connect_failures: BTreeMap<String, u64>,
    /// Errors and refusals by cause, since the beginning.
    pub errors: BTreeMap<String, u64>,
    /// Messages known to be lost; nothing as long as nobody can know.
    pub lost: Option<u64>,
    /// Messages received more than once.
    pub doubled: Option<u64>,
    /// How late this program was in the last seconds.
    pub behind: Times,
    /// The busiest thread's share of one core in the last seconds.
    pub busiest_thread_share: f64,
}

/// The progress of a run.
#[derive(Clone, Debug)]
pub struct Live {
    scenario: ScenarioSummary,
    now: Snapshot,
    /// The 95th percentiles of the last minute.
    p95: VecDeque<Option<f64>>,
}

impl Live {
    /// A run that has not begun.
    pub fn new(scenario: &ScenarioSummary) -> Self {
        Self { scenario: scenario.clone(), now: Snapshot::default(), p95: VecDeque::with_capacity(MINUTE) }
    }

    /// A second has passed.
    pub fn update(&mut self, snapshot: Snapshot) {
        if self.p95.len() == MINUTE {
            self.p95.pop_front();
        }
        self.p95.push_back(snapshot.second.p95_ms);
        self.now = snapshot;
    }

    /// Seconds since the run began.
    pub fn at_s(&self) -> f64 {
        self.now.second.at_s
    }

    /// What to show on a terminal of this size: lines that are no wider, at most `rows` of them, the important first.
    pub fn frame(&self, columns: usize, rows: usize, has_colours: bool) -> Vec<String> {
        let mut frame = Frame { columns, pen: Pen { has_colours }, lines: Vec::new() };
        self.title(&mut frame);
        self.progress(&mut frame);
        self.users(&mut frame);
        self.messages(&mut frame);
        self.latency(&mut frame);
        self.faults(&mut frame);
        self.machines(&mut frame);
        frame.lines.truncate(rows);
        frame.lines
    }

    /// The same as one line of `name=value`, for where nothing can be redrawn.
    pub fn line(&self) -> String {
        let (now, second) = (&self.now, &self.now.second);
        let mut pairs = vec![
            ("t".to_owned(), format!("{:.0}s", second.at_s)),
            ("phase".to_owned(), phase_word(now.phase).to_owned()),
        ];
        let mut pair = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                pairs.push((name.to_owned(), value));
            }
        };
        let ms = |value: Option<f64>| value.map(|ms| format!("{ms:.2}"));
        pair("left", now.left_s.map(|left| format!("{left:.0}s")));
        pair("users", Some(format!("{}/{}", second.rungs.values().sum::<u64>(), now.planned)));
        for rung in assess::rung_names(&second.rungs) {
            let users = second.rungs[rung];
            pair(&plain(rung).replace([' ', '='], "_"), Some(users.to_string()));
        }
        pair("failed", Some(now.failed.to_string()));
        pair("sent", Some(format!("{}/s", second.sent)));
        pair("received", Some(format!("{}/s", second.received)));
        pair("p50_ms", ms(second.p50_ms));
        pair("p95_ms", ms(second.p95_ms));
        pair("p99_ms", ms(second.p99_ms));
        pair("lost", now.lost.map(|lost| lost.to_string()));
        pair("doubled", now.doubled.map(|doubled| doubled.to_string()));
        pair("errors", Some(now.errors.values().sum::<u64>().to_string()));
        pair("server_cpu", second.server_cpu.map(|cpu| format!("{cpu:.2}")));
        pair("server_rss_mib", second.server_rss_bytes.map(|rss| (rss >> 20).to_string()));
        pair("harness_late_ms", ms(Some(now.behind.p99_ms)));
        if self.trust() == Trust::Bottleneck {
            pair("warning", Some("harness_is_the_bottleneck".to_owned()));
        }
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
    }

    fn trust(&self) -> Trust {
        assess::of(self.now.busiest_thread_share, &self.now.behind, self.now.recent.p99_ms)
    }

    fn title(&self, frame: &mut Frame) {
        let name = frame.pen.strong(&plain(&self.scenario.name));
        let rest =
            frame.pen.quiet(&format!("seed {} · {}", self.scenario.seed, plain(&self.scenario.target)));
        frame.push(&format!("{name}  {rest}"));
    }

    fn progress(&self, frame: &mut Frame) {
        let ScenarioSummary { ramp_s, hold_s, drain_s, .. } = self.scenario;
        let (whole, at) = (ramp_s + hold_s + drain_s, self.at_s());
        let left =
            self.now.left_s.map_or_else(String::new, |left| format!(", {} left", words::seconds(left)));
        let phase = frame.pen.strong(phase_word(self.now.phase));
        let text =
            format!("{phase}{left} · {} of {}", words::seconds(at.floor()), words::seconds(whole.round()));
        let room = frame.columns.saturating_sub(INDENT + 2 + measure_text_width(&text));
        if frame.columns < WIDE || whole <= 0.0 || room < 12 {
            return frame.flow("run", vec![text]);
        }
        let cells = room.min(48);
        let cell_of = |seconds: f64| (seconds / whole * cells as f64).round() as usize;
        let (done, borders) = (cell_of(at.min(whole)), [cell_of(ramp_s), cell_of(ramp_s + hold_s)]);
        let bar: String = (0..cells)
            .map(|cell| match cell {
                // Where a phase ends: the bar's parts are the run's.
                _ if cell > 0 && borders.contains(&cell) => '┃',
                _ if cell < done => '━',
                _ => '┄',
            })
            .collect();
        frame.flow("run", vec![frame.pen.accent(&bar), text]);
    }

    fn users(&self, frame: &mut Frame) {
        let now = &self.now;
        let mut items = vec![format!("{} of {} came", count(now.joined), count(now.planned))];
        if now.failed > 0 {
            items.push(frame.pen.bad(&format!("{} gave up", count(now.failed))));
        }
        if !now.connect_failures.is_empty() {
            items.push(frame.pen.bad(&format!("({})", plain(&in_words(&now.connect_failures)))));
        }
        frame.flow("users", items);
        let total = now.second.rungs.values().sum::<u64>().max(1);
        let rungs = assess::rung_names(&now.second.rungs).into_iter().map(|rung| {
            let users = now.second.rungs[rung];
            let bar = if frame.columns < WIDE { String::new() } else { bar(users as f64 / total as f64, 8) };
            format!("{} {}{}", plain(rung), frame.pen.accent(&bar), count(users))
        });
        let rungs: Vec<_> = rungs.collect();
        frame.flow("rungs", rungs);
    }

    fn messages(&self, frame: &mut Frame) {
        let second = &self.now.second;
        frame.flow(
            "messages",
            vec![
                format!("{}/s sent", short(second.sent as f64)),
                format!("{}/s received", short(second.received as f64)),
                frame.pen.quiet(&format!("{} received in all", count(self.now.received))),
            ],
        );
    }

    fn latency(&self, frame: &mut Frame) {
        let row = |name: &str, times: &Times| {
            if times.count == 0 {
                return format!("{name} none yet");
            }
            let cells = [("p50", times.p50_ms), ("p95", times.p95_ms), ("p99", times.p99_ms)];
            let cells = cells
                .map(|(name, value)| format!("{name} {}", pad_str(&ms(value), 7, Alignment::Left, None)));
            format!("{name} {}", cells.join(" "))
        };
        frame.flow("latency", vec![row("now", &self.now.recent)]);
        frame.flow("", vec![frame.pen.quiet(&row("all", &self.now.all))]);
        let known: Vec<f64> = self.p95.iter().flatten().copied().collect();
        let (low, high) = known
            .iter()
            .fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(*value), high.max(*value)));
        if known.len() > 1 {
            let legend = format!("p95 {} to {}", ms(low), ms(high));
            let room = frame.columns.saturating_sub(INDENT + 2 + legend.len()).clamp(8, MINUTE);
            let line = sparkline(self.p95.iter().skip(self.p95.len().saturating_sub(room)), low, high);
            frame.flow("", vec![frame.pen.accent(&line), frame.pen.quiet(&legend)]);
        }
    }

    fn faults(&self, frame: &mut Frame) {
        let now = &self.now;
        let known = [("lost", now.lost), ("doubled", now.doubled)];
        let items = known.iter().filter_map(|(what, number)| number.map(|number| (what, number)));
        let items: Vec<_> = items
            .map(|(what, number)| {
                let text = format!("{} {what}", count(number));
                if number > 0 { frame.pen.bad(&text) } else { text }
            })
            .collect();
        if !items.is_empty() {
            frame.flow("faults", items);
        }
        if !now.errors.is_empty() {
            frame.flow("errors", plain(&in_words(&now.errors)).split(", ").map(str::to_owned).collect());
        }
    }

    fn machines(&self, frame: &mut Frame) {
        let second = &self.now.second;
        let mut items = Vec::new();
        if let Some(cpu) = second.server_cpu {
            items.push(format!("CPU {}", percent(cpu)));
        }
        if let Some(rss) = second.server_rss_bytes {
            items.push(format!("memory {}", words::bytes(rss as f64)));
        }
        if !items.is_empty() {
            frame.flow("server", items);
        }
        let cpu = second.harness_cpu.map(|cpu| format!("CPU {}", percent(cpu)));
        let mut items: Vec<_> = cpu.into_iter().collect();
        items.push(format!("{} late (p99)", ms(self.now.behind.p99_ms)));
        if second.packets_dropped > 0 {
            items.push(format!("{} packets dropped/s", short(second.packets_dropped as f64)));
        }
        match self.trust() {
            Trust::Good => {}
            Trust::Doubtful => items.push(frame.pen.wait("its own part shows in the figures")),
            Trust::Bottleneck => items.push(frame.pen.bad("THE HARNESS IS THE BOTTLENECK")),
        }
        frame.flow("harness", items);
    }
}

fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Ramping => "ramping",
        Phase::Holding => "holding",
        Phase::Draining => "draining",
        Phase::Over => "over",
    }
}

/// A bar for a share of one, with eighths of a cell, and a space behind it.
fn bar(share: f64, cells: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = (share.clamp(0.0, 1.0) * cells as f64 * 8.0).round() as usize;
    let bar = "█".repeat(eighths / 8) + EIGHTHS[eighths % 8];
    if bar.is_empty() { bar } else { bar + " " }
}

/// Heights by the logarithm, as latencies differ by factors; a second without a value is a space.
fn sparkline<'a>(values: impl Iterator<Item = &'a Option<f64>>, low: f64, high: f64) -> String {
    const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let log = |value: f64| value.max(1e-3).ln();
    let span = log(high) - log(low);
    values
        .map(|value| match value {
            None => ' ',
            // What differs by less than a tenth is level.
            Some(_) if span < 0.1 => HEIGHTS[0],
            Some(value) => HEIGHTS[(((log(*value) - log(low)) / span * 7.0).round() as usize).min(7)],
        })
        .collect()
}

/// Colours, if there are any. What they say is said in words too.
#[derive(Clone, Copy)]
struct Pen {
    has_colours: bool,
}

impl Pen {
    fn strong(self, text: &str) -> String {
        self.write(Style::new().bold(), text)
    }

    fn quiet(self, text: &str) -> String {
        self.write(Style::new().dim(), text)
    }

    fn accent(self, text: &str) -> String {
        self.write(Style::new().cyan(), text)
    }

    fn wait(self, text: &str) -> String {
        self.write(Style::new().yellow(), text)
    }

    fn bad(self, text: &str) -> String {
        self.write(Style::new().red().bold(), text)
    }

    fn write(self, style: Style, text: &str) -> String {
        if text.is_empty() {
            return String::new();
        }
        style.force_styling(self.has_colours).apply_to(text).to_string()
    }
}

struct Frame {
    columns: usize,
    pen: Pen,
    lines: Vec<String>,
}

impl Frame {
    fn push(&mut self, line: &str) {
        self.lines.push(truncate_str(line, self.columns, "…").into_owned());
    }

    /// A name, and behind it items two spaces apart, on as many lines as they need.
    fn flow(&mut self, name: &str, items: Vec<String>) {
        let indent = if self.columns < NARROWEST { 2 } else { INDENT };
        let name = self.pen.quiet(&pad_str(name, indent, Alignment::Left, Some(" ")));
        let (mut line, mut is_empty) = (name, true);
        for item in items {
            if !is_empty && measure_text_width(&line) + 2 + measure_text_width(&item) > self.columns {
                self.push(&line);
                (line, is_empty) = (" ".repeat(indent), true);
            }
            if !is_empty {
                line.push_str("  ");
            }
            line.push_str(&item);
            is_empty = false;
        }
        self.push(&line);
    }
}
