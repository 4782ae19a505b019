//! A finished run as one HTML file: opens from disk, asks for nothing, and still shows its charts in ten years.
//!
//! Tables are written here and need no script; charts are drawn by `report.js` from the report's own JSON, which the
//! file holds whole. A content security policy lets that script and `report.css` be used, by their hashes, and nothing
//! else: what came from outside, names and error texts, is escaped in [`markup`] alone and could not run if it were not.

mod comparison;
mod markup;
mod run;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Serialize;

use self::markup::{Markup, escaped};

pub use self::{comparison::comparison_html, run::html};

const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// The file: a title, the body, and data by the ids of the elements that hold it.
fn page(title: &str, body: Markup, data: &[(&str, String)]) -> String {
    let data: String = data
        .iter()
        .map(|(id, json)| format!("<script type=\"application/json\" id=\"{id}\">{json}</script>\n"))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src '{}'; style-src '{}'; \
         base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{}\n{data}\
         <script type=\"module\">{SCRIPT}</script>\n</body>\n</html>\n",
        source_hash(SCRIPT),
        source_hash(STYLE),
        escaped(title),
        body.into_string(),
    )
}

/// A hash as a content security policy names a source (CSP 3, 2.3.1).
fn source_hash(source: &str) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, source.as_bytes());
    format!("sha256-{}", BASE64_STANDARD.encode(hash))
}

/// JSON that cannot end the element that holds it, begin another one, or be anything but JSON to an HTML parser.
fn embedded(value: &impl Serialize) -> String {
    // Figures are numbers, texts and maps with text for keys, which always can be written.
    let json = serde_json::to_string(value).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
    let mut out = String::with_capacity(json.len());
    for sign in json.chars() {
        match sign {
            // These occur in JSON within texts only, where each sign may be written by its number.
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => out.push_str(&format!("\\u{:04x}", u32::from(sign))),
            sign => out.push(sign),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_json_has_no_sign_of_html_and_says_the_same() {
        let text = "</script><script>alert(1)</script><!-- & ]]> \u{2028}\u{2029} \"quoted\" \\";
        let json = embedded(&[text]);
        assert!(!json.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{json}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), [text]);
    }

    #[test]
    fn a_source_is_named_as_browsers_compute_it() {
        // The example of CSP 2, 7.17.2.
        let expected = "sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng=";
        assert_eq!(source_hash("alert('Hello, world.');"), expected);
    }

    #[test]
    fn neither_style_nor_script_can_end_its_element_or_ask_for_anything() {
        assert!(!STYLE.contains("</") && !SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        for asking in ["url(", "@import", "import ", "fetch(", "innerHTML", "eval("] {
            assert!(!STYLE.contains(asking) && !SCRIPT.contains(asking), "{asking}");
        }
    }
}
