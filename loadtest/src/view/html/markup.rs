//! HTML that is being written. Every text goes through here and is escaped here.

/// HTML that is being written.
#[derive(Default)]
pub(super) struct Markup {
    out: String,
}

/// A cell of a table.
pub(super) struct Cell {
    text: String,
    class: &'static str,
}

/// A cell with text.
pub(super) fn text(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), class: "" }
}

/// A cell with a number, which stands to the right.
pub(super) fn number(text: impl Into<String>) -> Cell {
    Cell { text: text.into(), class: "n" }
}

/// A cell of a class: `good`, `bad`, `n bad`.
pub(super) fn classed(text: impl Into<String>, class: &'static str) -> Cell {
    Cell { text: text.into(), class }
}

impl Markup {
    /// Markup as it is, which nothing from outside may be part of.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.out.push_str(markup);
        self
    }

    /// An element with text in it. `tag` may have attributes, all of them ours.
    pub(super) fn element(&mut self, tag: &'static str, text: &str) -> &mut Self {
        let name = tag.split(' ').next().unwrap_or(tag);
        self.out.push_str(&format!("<{tag}>{}</{name}>\n", escaped(text)));
        self
    }

    /// A place for a chart of this name, which the script fills.
    pub(super) fn chart(&mut self, name: &str, title: &str, note: &str) -> &mut Self {
        let (name, title, note) = (escaped(name), escaped(title), escaped(note));
        self.out.push_str(&format!(
            "<figure class=\"chart\" data-chart=\"{name}\"><figcaption><h3>{title}</h3><p>{note}</p></figcaption></figure>\n"
        ));
        self
    }

    /// A table with a caption, unless it has no rows. The first cell of a row is its heading.
    pub(super) fn table(&mut self, caption: &str, head: &[&str], rows: &[Vec<Cell>]) -> &mut Self {
        if rows.is_empty() {
            return self;
        }
        let caption = escaped(caption);
        self.out.push_str(&format!(
            "<div class=\"table\" role=\"region\" tabindex=\"0\" aria-label=\"{caption}\"><table><caption>{caption}</caption><thead><tr>"
        ));
        let is_number = |column: usize| {
            rows.iter().any(|row| row.get(column).is_some_and(|cell| cell.class.starts_with('n')))
        };
        for (column, name) in head.iter().enumerate() {
            let class = if is_number(column) { " class=\"n\"" } else { "" };
            self.out.push_str(&format!("<th scope=\"col\"{class}>{}</th>", escaped(name)));
        }
        self.out.push_str("</tr></thead><tbody>\n");
        for row in rows {
            self.out.push_str("<tr>");
            for (column, Cell { text, class }) in row.iter().enumerate() {
                let (tag, scope) = if column == 0 { ("th", " scope=\"row\"") } else { ("td", "") };
                let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
                self.out.push_str(&format!("<{tag}{scope}{class}>{}</{tag}>", escaped(text)));
            }
            self.out.push_str("</tr>\n");
        }
        self.out.push_str("</tbody></table></div>\n");
        self
    }

    pub(super) fn into_string(self) -> String {
        self.out
    }
}

/// Text for an element's content or a quoted attribute. Signs that no text has are shown as such.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            sign if sign.is_control() && sign != '\n' => out.push('\u{fffd}'),
            // They would turn around what stands behind them.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            sign => out.push(sign),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_is_text_wherever_it_is_put() {
        let evil = "\"><img src=x onerror='alert(1)'>&\u{1b}[2J\u{202e}";
        let mut markup = Markup::default();
        markup.element("p class=\"a\"", evil).chart(evil, evil, evil).table(
            evil,
            &[evil],
            &[vec![text(evil)]],
        );
        let out = markup.into_string();
        assert!(!out.contains("<img") && !out.contains('\u{1b}') && !out.contains('\u{202e}'), "{out}");
        assert!(!out.contains("onerror='") && out.contains("&lt;img"), "{out}");
    }
}
