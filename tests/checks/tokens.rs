//! Rust source as a list of words and signs: enough to tell a path from a comment or a string that mentions one.

/// The words and signs of `source`, without comments, literals and what is compiled for tests only.
pub(crate) fn of(source: &str) -> Vec<&str> {
    without_tests(&all(source))
}

fn all(source: &str) -> Vec<&str> {
    let (bytes, mut at, mut tokens) = (source.as_bytes(), 0, Vec::new());
    while at < bytes.len() {
        let rest = &source[at..];
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = literal(rest) {
            length
        } else if word > 0 {
            tokens.push(&rest[..word]);
            word
        } else {
            let length =
                if rest.starts_with("::") { 2 } else { rest.chars().next().map_or(1, char::len_utf8) };
            if !rest.starts_with(char::is_whitespace) {
                tokens.push(&rest[..length]);
            }
            length
        };
        at += length;
    }
    tokens
}

/// Length of the comment at the start; comments nest.
fn block_comment(rest: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < rest.len() {
        let (step, deeper) = match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (2, 1),
            [b'*', b'/', ..] => (2, -1),
            _ => (1, 0),
        };
        (at, depth) = (at + step, depth + deeper);
        if depth == 0 {
            break;
        }
    }
    at
}

/// Length of the string or character at the start, if there is one.
fn literal(rest: &str) -> Option<usize> {
    let prefix = rest.find(|c| !matches!(c, 'b' | 'c' | 'r')).filter(|&length| length <= 2)?;
    let (is_raw, body) = (rest[..prefix].contains('r'), &rest[prefix..]);
    let hashes = body.find(|c| c != '#').unwrap_or(body.len());
    if is_raw && body[hashes..].starts_with('"') {
        let end = format!("\"{}", "#".repeat(hashes));
        let inside = &body[hashes + 1..];
        return Some(prefix + hashes + 1 + inside.find(&end).map_or(inside.len(), |at| at + end.len()));
    }
    let quote = body.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    let mut characters = body.char_indices().skip(1);
    // A lifetime begins like a character and does not end like one.
    if quote == '\'' {
        let mut ahead = characters.clone();
        let first = ahead.next()?.1;
        if first != '\\' && ahead.next().is_none_or(|(_, second)| second != '\'') {
            return None;
        }
    }
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return Some(prefix + at + 1);
        }
    }
    Some(rest.len())
}

/// Leaves out each item that follows `#[cfg(test)]`.
fn without_tests<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    const MARK: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut at) = (Vec::with_capacity(tokens.len()), 0);
    while at < tokens.len() {
        if !tokens[at..].starts_with(&MARK) {
            kept.push(tokens[at]);
            at += 1;
            continue;
        }
        at += MARK.len();
        let mut depth = 0;
        while let Some(&token) = tokens.get(at) {
            at += 1;
            match token {
                "{" | "(" | "[" => depth += 1,
                "}" | ")" | "]" => depth -= 1,
                _ => {}
            }
            if depth == 0 && matches!(token, ";" | "}") {
                break;
            }
        }
    }
    kept
}

#[test]
fn comments_and_literals_are_no_words() {
    let source = r####"
        //! crate::one
        /* crate::two /* nested */ still */
        let a = "crate::three \" crate::four"; let b = r#"crate::"five"#; let c = b"six"; let d = '"';
        let e: &'static str = '\''; use crate::seven;
    "####;
    let tokens = of(source);
    let words = ["one", "two", "nested", "still", "three", "four", "five", "six"];
    assert!(!tokens.iter().any(|token| words.contains(token)), "{tokens:?}");
    assert!(tokens.ends_with(&["use", "crate", "::", "seven", ";"]), "{tokens:?}");
    assert!(tokens.contains(&"static"));
}

#[test]
fn what_is_compiled_for_tests_only_is_left_out() {
    let source =
        "fn a() {} #[cfg(test)] mod tests { fn b() { [()]; } } #[cfg(test)] mod more; #[test] fn c() {}";
    let tokens = of(source);
    assert!(!tokens.contains(&"b") && !tokens.contains(&"more"));
    assert!(tokens.contains(&"a") && tokens.contains(&"c"));
}
