//! Who imports whom: what `docs/architecture.md` draws is what the sources do.

use crate::{
    expect_none,
    packages::{self, Package},
    tokens,
    tree::{self, File},
};

/// The modules of the server, each with those it may import. `lib` and `main` put them together and may import all.
const MODULES: [(&str, &[&str]); 20] = [
    ("names", &[]),
    ("bucket", &[]),
    ("attempts", &["names"]),
    ("health", &[]),
    ("ice_servers", &[]),
    ("metrics", &[]),
    ("signing_key", &[]),
    ("config", &[]),
    ("log", &["config"]),
    ("token", &["config", "room"]),
    ("tls", &["config", "metrics"]),
    ("cli", &["config", "doctor", "ice_servers", "room", "token"]),
    ("doctor", &["tls"]),
    ("store", &["config", "metrics", "names"]),
    ("room", &["bucket", "names", "signing_key", "store"]),
    ("router", &["names", "room", "store"]),
    ("engine", &["attempts", "bucket", "ice_servers", "names", "room", "router", "store"]),
    (
        "io",
        &[
            "attempts",
            "config",
            "engine",
            "ice_servers",
            "metrics",
            "names",
            "room",
            "router",
            "store",
            "tls",
        ],
    ),
    (
        "http",
        &["attempts", "config", "engine", "io", "metrics", "names", "room", "signing_key", "store", "token"],
    ),
    (
        "lib",
        &[
            "cli", "config", "engine", "http", "io", "log", "metrics", "names", "room", "router", "store",
            "token",
        ],
    ),
];

/// Modules that are state machines: no sockets, threads or clocks, and nothing that brings them.
const PURE: [&str; 5] = ["engine", "media", "room", "router", "user"];

/// Crates that are nothing else.
const PURE_CRATES: [&str; 2] = ["signaling/src/", "turn-config/src/"];

/// What a state machine never names.
const SHELL: [&str; 17] = [
    "axum",
    "hyper",
    "quinn_udp",
    "redis",
    "rusqlite",
    "socket2",
    "sqlx",
    "tokio",
    "tokio_postgres",
    "SystemTime",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixStream",
    "fs",
    "thread",
    "process",
];

/// The crate of TURN, and its module of STUN messages, the only one that a state machine of the server names: ICE stands
/// on the same bytes, the relay is beside the engine and not beneath it.
const TURN_CRATE: &str = "switchyard_turn_config";
const TURN_BENEATH: [&str; 2] = ["::", "stun"];

/// The engine library's peer, and the one file that names it.
const PEER_TYPE: &str = "RTCPeerConnection";
const PEER_FILE: &str = "src/engine/peer.rs";

/// Members of the workspace, each with those it may depend on. Others (tests, benchmarks) may depend on all.
const MEMBERS: [(&str, &[&str]); 4] = [
    ("switchyard-signaling", &[]),
    ("switchyard-turn-config", &[]),
    ("switchyard-loadtest", &["switchyard-signaling"]),
    ("switchyard", &["switchyard-signaling", "switchyard-turn-config"]),
];

/// The module that a file of `src/` belongs to.
fn module_of(path: &str) -> Option<&str> {
    let path = path.strip_prefix("src/")?;
    let end = path.find(['/', '.'])?;
    Some(&path[..end])
}

/// How many `super` lead from the file's module to the crate's root.
fn depth_of(path: &str) -> usize {
    let path = path.strip_prefix("src/").unwrap_or(path);
    let path = path.strip_suffix("/mod.rs").or_else(|| path.strip_suffix(".rs")).unwrap_or(path);
    path.split('/').count()
}

fn imports(file: &File) -> Vec<String> {
    let Some(module) = module_of(&file.path).filter(|module| *module != "main") else {
        return Vec::new();
    };
    let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
        return vec![format!("{}: the module `{module}` is not in the list of modules", file.path)];
    };
    named_from_root(&tokens::of(&file.text), depth_of(&file.path))
        .into_iter()
        .filter(|name| {
            *name != module && MODULES.iter().any(|(known, _)| known == name) && !allowed.contains(name)
        })
        .map(|name| format!("{}: `{module}` may not import `{name}`", file.path))
        .collect()
}

/// What is named directly beneath the crate's root: `crate::a`, `crate::{a, b::c}`, `super::a` from a depth of 1.
fn named_from_root<'a>(tokens: &[&'a str], depth: usize) -> Vec<&'a str> {
    let mut names = Vec::new();
    for (at, &token) in tokens.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |before| tokens[before]);
        let after = match token {
            "crate" => at + 1,
            "super" if before != "::" => {
                let supers = tokens[at..].chunks(2).take_while(|pair| *pair == ["super", "::"]).count();
                if supers != depth {
                    continue;
                }
                at + 2 * supers - 1
            }
            _ => continue,
        };
        match tokens.get(after..) {
            Some(["::", "{", group @ ..]) => names.extend(firsts_of_group(group)),
            Some(["::", name, ..]) => names.push(name),
            _ => {}
        }
    }
    names
}

fn firsts_of_group<'a>(tokens: &[&'a str]) -> Vec<&'a str> {
    let (mut names, mut depth, mut is_first) = (Vec::new(), 1, true);
    for &token in tokens {
        match token {
            "{" => depth += 1,
            "}" => depth -= 1,
            "," if depth == 1 => {
                is_first = true;
                continue;
            }
            name if is_first && depth == 1 => names.push(name),
            _ => {}
        }
        is_first = false;
        if depth == 0 {
            break;
        }
    }
    names
}

fn purity(file: &File) -> Vec<String> {
    let is_pure = PURE_CRATES.iter().any(|folder| file.path.starts_with(folder))
        || module_of(&file.path).is_some_and(|m| PURE.contains(&m));
    if !is_pure || file.path.ends_with("tests.rs") {
        return Vec::new();
    }
    let tokens = tokens::of(&file.text);
    let named = SHELL.iter().filter(|name| tokens.contains(name));
    let mut found: Vec<_> =
        named.map(|name| format!("{}: a state machine names `{name}`", file.path)).collect();
    if tokens.windows(3).any(|window| window == ["Instant", "::", "now"]) {
        found.push(format!("{}: a state machine reads a clock", file.path));
    }
    found
}

fn relay(file: &File) -> Option<String> {
    let tokens = tokens::of(&file.text);
    let mut named = tokens.iter().enumerate().filter(|(_, token)| **token == TURN_CRATE);
    let is_pure = module_of(&file.path).is_some_and(|module| PURE.contains(&module));
    (is_pure && named.any(|(at, _)| !tokens[at + 1..].starts_with(&TURN_BENEATH)))
        .then(|| format!("{}: a state machine names more of {TURN_CRATE} than its STUN messages", file.path))
}

fn peer_type(file: &File) -> Option<String> {
    let is_elsewhere = file.path.starts_with("src/") && file.path != PEER_FILE;
    (is_elsewhere && tokens::of(&file.text).contains(&PEER_TYPE))
        .then(|| format!("{}: only {PEER_FILE} names {PEER_TYPE}", file.path))
}

fn members(packages: &[Package]) -> Vec<String> {
    let ours = |name: &String| packages.iter().any(|package| package.is_member && package.name == *name);
    let mut found = Vec::new();
    for package in packages.iter().filter(|package| package.is_member) {
        let Some((_, allowed)) = MEMBERS.iter().find(|(name, _)| *name == package.name) else {
            continue;
        };
        for name in package.dependencies.iter().filter(|name| ours(name)) {
            if !allowed.contains(&&**name) {
                found.push(format!("{} may not depend on {name}", package.name));
            }
        }
    }
    found
}

#[test]
fn modules_import_only_what_lies_beneath_them() {
    let found: Vec<_> = tree::rust_files().iter().flat_map(imports).collect();
    expect_none(&found);
}

#[test]
fn state_machines_name_no_socket_thread_or_clock() {
    let found: Vec<_> = tree::rust_files().iter().flat_map(purity).collect();
    expect_none(&found);
}

#[test]
fn the_engine_knows_stun_messages_and_no_relay() {
    let found: Vec<_> = tree::rust_files().iter().filter_map(relay).collect();
    expect_none(&found);
}

#[test]
fn one_file_names_the_engine_librarys_peer_type() {
    let files = tree::rust_files();
    assert!(files.iter().any(|file| file.path == PEER_FILE && tokens::of(&file.text).contains(&PEER_TYPE)));
    let found: Vec<_> = files.iter().filter_map(peer_type).collect();
    expect_none(&found);
}

#[test]
fn crates_depend_only_on_what_lies_beneath_them() {
    expect_none(&members(packages::all()));
}

fn file(path: &str, text: &str) -> File {
    File { path: path.to_owned(), text: text.to_owned() }
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    for text in [
        "use crate::engine::Shard;",
        "use crate::{names::RoomKey, engine::{Shard, session}};",
        "fn f() { crate::engine::welcome() }",
        "use super::engine;",
    ] {
        let found = imports(&file("src/room/mod.rs", text));
        assert_eq!(found, ["src/room/mod.rs: `room` may not import `engine`"], "{text}");
    }
    assert_eq!(imports(&file("src/room/permission.rs", "use super::super::http;")).len(), 1);
    assert_eq!(imports(&file("src/secrets.rs", "")).len(), 1, "an unknown module");
}

#[test]
fn an_allowed_import_is_not_found() {
    let text = "//! [`crate::engine`]\nuse crate::{names::RoomKey, room::permission}; use super::engine; \
                #[cfg(test)] mod tests { use crate::engine::Shard; }";
    assert_eq!(imports(&file("src/room/permission.rs", text)), Vec::<String>::new());
}

#[test]
fn an_impure_state_machine_is_found() {
    for text in
        ["use tokio::time;", "fn f() { axum::serve() }", "let now = Instant::now();", "std::thread::sleep"]
    {
        assert_eq!(purity(&file("src/engine/ice.rs", text)).len(), 1, "{text}");
        assert_eq!(purity(&file("turn-config/src/server/mod.rs", text)).len(), 1, "{text}");
        assert_eq!(purity(&file("src/io/udp.rs", text)).len(), 0, "{text}");
    }
    assert_eq!(purity(&file("src/room/mod.rs", "// tokio\nlet name = \"axum\"; now: Instant")).len(), 0);
}

#[test]
fn an_engine_that_knows_of_the_relay_is_found() {
    for text in ["use switchyard_turn_config::server::Server;", "use switchyard_turn_config::{stun, server};"]
    {
        assert!(relay(&file("src/engine/ice.rs", text)).is_some(), "{text}");
        assert!(relay(&file("src/io/turn.rs", text)).is_none());
    }
    assert!(relay(&file("src/engine/stun.rs", "use switchyard_turn_config::stun::wire;")).is_none());
}

#[test]
fn the_peer_type_in_another_file_is_found() {
    let text = "use rtc::peer_connection::RTCPeerConnection;";
    assert!(peer_type(&file("src/engine/mod.rs", text)).is_some());
    assert!(peer_type(&file(PEER_FILE, text)).is_none());
}

#[test]
fn a_harness_that_depends_on_the_server_is_found() {
    let mut packages = ["switchyard", "switchyard-signaling", "switchyard-loadtest"]
        .map(|name| packages::sample(name, "0.1.0", None));
    for package in &mut packages {
        package.is_member = true;
    }
    packages[2].dependencies.insert("switchyard-signaling".to_owned());
    expect_none(&members(&packages));
    packages[2].dependencies.insert("switchyard".to_owned());
    assert_eq!(members(&packages), ["switchyard-loadtest may not depend on switchyard"]);
}
