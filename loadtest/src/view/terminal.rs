//! The live view on standard error: redrawn in place on a terminal, a plain line each second elsewhere.
//!
//! It changes no mode of the terminal that outlives a single write: no alternate screen, no raw mode, the cursor hidden
//! only within a write. So there is nothing to restore when a run ends, is interrupted or is killed, and the last frame
//! stays where it is, with the cursor beneath it.

use std::io::{self, Write};

use console::{Term, measure_text_width, truncate_str};

use super::live::Live;

/// Plain lines come each second for so long, then every [`PLAIN_EVERY_S`].
const PLAIN_EACH_UNTIL_S: f64 = 60.0;
const PLAIN_EVERY_S: f64 = 5.0;

/// Begins an update that the terminal shows at once (where it knows synchronised output), without the cursor.
const BEGIN: &str = "\x1b[?2026h\x1b[?25l";
const END: &str = "\x1b[?25h\x1b[?2026l";

/// Where the live view is shown.
#[derive(Debug)]
pub struct Screen {
    term: Term,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Redrawn { has_colours: bool, painter: Painter },
    Plain { next_s: f64 },
}

impl Screen {
    /// Standard error. It is redrawn if it is a terminal that can (`TERM` is not `dumb`); it has colours unless
    /// `NO_COLOR` is set.
    pub fn stderr() -> Self {
        let term = Term::stderr();
        let is_dumb = std::env::var_os("TERM").is_none_or(|kind| kind == "dumb");
        let kind = if term.features().is_attended() && !is_dumb {
            Kind::Redrawn { has_colours: term.features().colors_supported(), painter: Painter::default() }
        } else {
            Kind::Plain { next_s: 0.0 }
        };
        Self { term, kind }
    }

    /// Shows how the run stands. To be called each second.
    pub fn show(&mut self, live: &Live) -> io::Result<()> {
        let (rows, columns) = self.term.size();
        let text = match &mut self.kind {
            Kind::Redrawn { has_colours, painter } => {
                let (columns, rows) = (usize::from(columns), usize::from(rows).saturating_sub(1));
                painter.redraw(&[], &live.frame(columns, rows, *has_colours), columns)
            }
            Kind::Plain { next_s } => {
                if live.at_s() < *next_s {
                    return Ok(());
                }
                *next_s = next_plain(live.at_s());
                live.line() + "\n"
            }
        };
        self.write(&text)
    }

    /// Puts a line above the view, where it stays: what the scenario does, what went wrong.
    pub fn note(&mut self, line: &str) -> io::Result<()> {
        let line = super::table::plain(line);
        let columns = usize::from(self.term.size().1);
        let text = match &mut self.kind {
            Kind::Redrawn { painter, .. } => {
                let frame = painter.frame.clone();
                painter.redraw(&[line], &frame, columns)
            }
            Kind::Plain { .. } => line + "\n",
        };
        self.write(&text)
    }

    /// One write, so that nothing can come in between.
    fn write(&mut self, text: &str) -> io::Result<()> {
        self.term.write_all(text.as_bytes())?;
        self.term.flush()
    }
}

/// When the next plain line is due, seconds since the run began. A second's end may be told a little early.
fn next_plain(at_s: f64) -> f64 {
    if at_s < PLAIN_EACH_UNTIL_S {
        at_s + 0.5
    } else {
        ((at_s / PLAIN_EVERY_S).round() + 1.0) * PLAIN_EVERY_S - 0.5
    }
}

/// Replaces what it has drawn before. The cursor is always at the beginning of the line beneath.
#[derive(Debug, Default)]
struct Painter {
    frame: Vec<String>,
}

impl Painter {
    /// What to write so that the notes and then the frame take the place of the last frame.
    fn redraw(&mut self, notes: &[String], frame: &[String], columns: usize) -> String {
        let mut out = BEGIN.to_owned();
        // A terminal that has become narrower has broken the old lines into several.
        let above: usize =
            self.frame.iter().map(|line| measure_text_width(line).div_ceil(columns.max(1)).max(1)).sum();
        if above > 0 {
            out.push_str(&format!("\x1b[{above}F"));
        }
        // Notes are never replaced, so they may take as many rows as they need.
        let notes = notes.iter().map(|line| line.as_str().into());
        for line in notes.chain(frame.iter().map(|line| truncate_str(line, columns, "…"))) {
            // Erased before it is written: behind a full line the cursor still stands on its last sign.
            out.push_str("\x1b[2K");
            out.push_str(&line);
            out.push_str("\r\n");
        }
        out.push_str("\x1b[J");
        out.push_str(END);
        self.frame = frame.to_vec();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As much of a terminal as the painter uses, without scrolling.
    #[derive(Default)]
    struct Emulator {
        lines: Vec<String>,
        row: usize,
    }

    impl Emulator {
        fn write(&mut self, text: &str) {
            let mut rest = text;
            while let Some(sign) = rest.chars().next() {
                rest = &rest[sign.len_utf8()..];
                match sign {
                    '\r' => {}
                    '\n' => self.row += 1,
                    '\x1b' => {
                        let end = rest.find(|sign: char| sign.is_ascii_alphabetic()).unwrap();
                        let (number, command) = (&rest[1..end], &rest[end..=end]);
                        match command {
                            "F" => self.row -= number.parse::<usize>().unwrap(),
                            "K" => self.line().clear(),
                            "J" => self.lines.truncate(self.row),
                            "h" | "l" | "m" => {}
                            other => panic!("unknown sequence {other}"),
                        }
                        rest = &rest[end + 1..];
                    }
                    sign => self.line().push(sign),
                }
            }
        }

        fn line(&mut self) -> &mut String {
            self.lines.resize(self.lines.len().max(self.row + 1), String::new());
            &mut self.lines[self.row]
        }
    }

    fn lines(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|&line| line.to_owned()).collect()
    }

    #[test]
    fn a_frame_takes_the_place_of_the_one_before_and_notes_stay_above() {
        let (mut emulator, mut painter) = (Emulator::default(), Painter::default());
        emulator.write("$ run\r\n");
        for frame in [lines(&["one", "two", "three"]), lines(&["1"]), lines(&["a", "b"])] {
            emulator.write(&painter.redraw(&[], &frame, 20));
        }
        assert_eq!(emulator.lines, ["$ run", "a", "b"]);
        emulator.write(&painter.redraw(&lines(&["server restarted"]), &lines(&["c", "d"]), 20));
        emulator.write(&painter.redraw(&[], &lines(&["e", "f"]), 20));
        assert_eq!(emulator.lines, ["$ run", "server restarted", "e", "f"]);
    }

    #[test]
    fn after_each_write_the_cursor_is_shown_and_updates_are_no_longer_held_back() {
        let text = Painter::default().redraw(&[], &lines(&["one"]), 20);
        assert!(
            text.ends_with(END) && text.matches("\x1b[?25l").count() == text.matches("\x1b[?25h").count()
        );
    }

    #[test]
    fn lines_that_a_narrower_terminal_has_broken_are_replaced_too() {
        let mut painter = Painter::default();
        painter.redraw(&[], &lines(&["0123456789", "x"]), 10);
        // The first line takes three rows of four columns now.
        let text = painter.redraw(&[], &lines(&["abcdefg"]), 4);
        assert!(text.contains("\x1b[4F") && text.contains("abc…"), "{text:?}");
    }

    #[test]
    fn plain_lines_come_each_second_and_after_a_minute_every_five() {
        let (mut next, mut printed) = (0.0, Vec::new());
        for second in 1..=80 {
            let at = f64::from(second) + if second % 2 == 0 { 0.05 } else { -0.05 };
            if at >= next {
                printed.push(second);
                next = next_plain(at);
            }
        }
        assert_eq!(printed[..60], (1..=60).collect::<Vec<_>>());
        assert_eq!(printed[60..], [65, 70, 75, 80]);
    }
}
