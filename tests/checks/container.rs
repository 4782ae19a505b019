//! The Dockerfile, as far as it can be judged without building it: `tests/container/run` builds and runs it where it can.

use std::{collections::BTreeSet, path::Path};

use crate::{
    expect_none,
    tree::{self, File},
};

/// An instruction, its continued lines joined, with its line number.
struct Instruction<'a> {
    line: usize,
    name: &'a str,
    rest: String,
}

/// What no image may carry, in the name of a variable.
const SECRET: [&str; 4] = ["SECRET", "PASSWORD", "TOKEN", "CREDENTIAL"];
/// What a build neither needs nor may copy into a layer.
const NOT_CONTEXT: [&str; 5] = [".git", "**/node_modules", "target", "data", "tests"];
/// The default ports of HTTP, ICE-TCP, the first shard, and TURN.
const PORTS: [&str; 6] = ["7880/tcp", "7881/tcp", "7882", "3478/udp", "3478/tcp", "5349/tcp"];

fn instructions(text: &str) -> Vec<Instruction<'_>> {
    let mut found: Vec<Instruction<'_>> = Vec::new();
    let mut continues = false;
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (part, more) = line.strip_suffix('\\').map_or((line, false), |part| (part.trim_end(), true));
        if continues && let Some(last) = found.last_mut() {
            last.rest = format!("{} {part}", last.rest);
        } else {
            let (name, rest) = part.split_once(' ').unwrap_or((part, ""));
            found.push(Instruction { line: number + 1, name, rest: rest.trim().to_owned() });
        }
        continues = more;
    }
    found
}

/// `is_there` says whether the build context has a path.
fn findings(dockerfile: &str, is_there: impl Fn(&str) -> bool) -> Vec<String> {
    let instructions = instructions(dockerfile);
    let mut found: Vec<String> = Vec::new();
    let mut say = |line: usize, what: &str| found.push(format!("Dockerfile:{line}: {what}"));
    let mut stages = BTreeSet::new();
    let mut last_stage = 0;
    for (at, instruction) in instructions.iter().enumerate() {
        let Instruction { line, name, rest } = instruction;
        let words: Vec<&str> = rest.split_whitespace().collect();
        match *name {
            "FROM" => {
                last_stage = at;
                let base = words.first().copied().unwrap_or_default();
                let image = match base.strip_prefix("${").and_then(|base| base.strip_suffix('}')) {
                    Some(argument) => default_of(&instructions, argument),
                    None => base,
                };
                if !stages.contains(image) && !is_pinned(image) {
                    say(*line, "the base has no tag, or one that moves with every release");
                }
                match words.as_slice() {
                    [_, "AS", stage] => drop(stages.insert(*stage)),
                    _ => say(*line, "the stage has no name"),
                }
            }
            "COPY" => {
                let from = words.iter().find_map(|word| word.strip_prefix("--from="));
                let sources: Vec<_> = words.iter().filter(|word| !word.starts_with("--")).collect();
                for source in sources.iter().take(sources.len().saturating_sub(1)) {
                    if from.is_none() && !is_there(source) {
                        say(*line, &format!("the build context has no {source}"));
                    }
                }
                if from.is_some_and(|stage| !stages.contains(stage)) {
                    say(*line, "copies from a stage that does not exist");
                }
            }
            "ADD" => say(*line, "ADD also unpacks and downloads; COPY is enough"),
            "ENV" | "ARG" => {
                let names = words.iter().filter_map(|word| word.split('=').next());
                for variable in names.filter(|variable| SECRET.iter().any(|word| variable.contains(word))) {
                    say(*line, &format!("{variable} would be kept in the image"));
                }
            }
            _ => {}
        }
    }
    let stage = &instructions[last_stage..];
    let given =
        |name: &str| stage.iter().rfind(|instruction| instruction.name == name).map(|i| i.rest.as_str());
    let line = stage.first().map_or(0, |instruction| instruction.line);
    let user = given("USER").and_then(|user| user.split(':').next()?.parse::<u32>().ok());
    if user.is_none_or(|user| user == 0) {
        say(line, "the image does not run as a user with a number other than 0");
    }
    for name in ["ENTRYPOINT", "CMD"] {
        if !given(name).is_some_and(|list| list.starts_with('[')) {
            say(line, &format!("{name} is not a list: a shell would stand between, and take the signals"));
        }
    }
    if !given("HEALTHCHECK").is_some_and(|check| check.contains("CMD [\"switchyard\", \"health\"")) {
        say(line, "the health check is not the program's own");
    }
    if given("STOPSIGNAL") != Some("SIGTERM") {
        say(line, "it is not stopped by SIGTERM, which drains");
    }
    let volume = given("VOLUME").map(|volume| volume.trim_matches(['[', ']', '"']));
    if volume.is_none() || volume != given("WORKDIR") {
        say(line, "the folder that the store's path is relative to is no volume");
    }
    for port in PORTS {
        if !given("EXPOSE").is_some_and(|ports| ports.split(' ').any(|exposed| exposed.starts_with(port))) {
            say(line, &format!("{port} is not exposed"));
        }
    }
    found
}

fn default_of<'a>(instructions: &'a [Instruction<'_>], argument: &str) -> &'a str {
    let arguments = instructions.iter().filter(|instruction| instruction.name == "ARG");
    let mut defaults = arguments.filter_map(|instruction| instruction.rest.split_once('='));
    defaults.find(|(name, _)| *name == argument).map_or("", |(_, image)| image)
}

/// Whether an image names a release: `debian:bookworm-slim`, `rust:1.95-slim-bookworm`, or a digest.
fn is_pinned(image: &str) -> bool {
    let name = image.rsplit('/').next().unwrap_or_default();
    let tag = name.split_once(':').map_or("", |(_, tag)| tag);
    image.contains("@sha256:")
        || !matches!(tag, "" | "latest" | "slim" | "stable" | "stable-slim" | "1" | "1-slim")
}

fn ignored(dockerignore: &str) -> BTreeSet<&str> {
    dockerignore.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

fn text_of(path: &str) -> String {
    let is_it = |file: &File| file.path == path;
    tree::files().into_iter().find(is_it).unwrap_or_else(|| panic!("there is no {path}")).text
}

#[test]
fn the_dockerfile_keeps_its_rules() {
    let dockerignore = text_of(".dockerignore");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_there = |path: &str| root.join(path).exists() && !ignored(&dockerignore).contains(path);
    expect_none(&findings(&text_of("Dockerfile"), is_there));
}

#[test]
fn the_build_context_has_neither_history_nor_what_is_built() {
    let dockerignore = text_of(".dockerignore");
    let missing = NOT_CONTEXT.iter().filter(|path| !ignored(&dockerignore).contains(*path));
    expect_none(&missing.map(|path| format!(".dockerignore does not leave out {path}")).collect::<Vec<_>>());
}

/// What the image sets in the environment is a setting, and a value that it may have.
#[test]
fn the_environment_of_the_image_is_understood() {
    let dockerfile = text_of("Dockerfile");
    let set: Vec<(std::ffi::OsString, std::ffi::OsString)> = instructions(&dockerfile)
        .iter()
        .filter(|instruction| instruction.name == "ENV")
        .flat_map(|instruction| instruction.rest.split_whitespace().filter_map(|word| word.split_once('=')))
        .map(|(name, value)| (name.into(), value.into()))
        .chain([("SWITCHYARD__KEYS__APP__SECRET".into(), "6c1f0d9be27a4583b1c2d3e4f5061728".into())])
        .collect();
    let config = switchyard::config::Config::read(None, &set, &[]).unwrap();
    assert_eq!(config.mode(), switchyard::config::Mode::Production);
}

#[test]
fn each_rule_finds_what_breaks_it() {
    let good = text_of("Dockerfile");
    assert_eq!(findings(&good, |_| true).len(), 0);
    for (from, to, expected) in [
        ("debian:bookworm-slim", "debian", "no tag"),
        ("rust:1.95-slim-bookworm", "rust:latest", "no tag"),
        (" AS server", "", "no name"),
        ("COPY . .", "ADD . .", "ADD also"),
        ("--from=build-server", "--from=build-sever", "does not exist"),
        ("ENV SWITCHYARD__MODE", "ENV SWITCHYARD__KEYS__A__SECRET=x SWITCHYARD__MODE", "kept in the image"),
        ("USER 10001:10001\nSTOPSIGNAL", "USER 0:0\nSTOPSIGNAL", "other than 0"),
        ("USER 10001:10001\nSTOPSIGNAL", "STOPSIGNAL", "other than 0"),
        ("ENTRYPOINT [\"switchyard\"]", "ENTRYPOINT switchyard", "not a list"),
        ("CMD [\"serve\"]", "", "not a list"),
        ("CMD [\"switchyard\", \"health\"]", "CMD curl localhost", "health check"),
        ("STOPSIGNAL SIGTERM", "STOPSIGNAL SIGKILL", "SIGTERM"),
        ("VOLUME [\"/var/lib/switchyard\"]", "VOLUME [\"/data\"]", "no volume"),
        ("7881/tcp ", "", "7881/tcp is not exposed"),
    ] {
        assert!(good.contains(from), "{from}");
        let found = findings(&good.replace(from, to), |_| true);
        assert!(found.iter().any(|finding| finding.contains(expected)), "{from} -> {to}: {found:?}");
    }
    let found = findings(&good, |path| path != "LICENSE-MIT");
    assert!(found.len() == 1 && found[0].contains("has no LICENSE-MIT"), "{found:?}");
}
