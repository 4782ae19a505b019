//! What cargo says about the workspace and its dependencies on Linux.

use std::{collections::BTreeSet, process::Command, sync::LazyLock};

use serde_json::Value;

const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A package of the dependency graph.
#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) licence: Option<String>,
    /// Names of the packages it declares, except for tests.
    pub(crate) dependencies: BTreeSet<String>,
    pub(crate) is_member: bool,
}

/// Everything that is compiled for the workspace, its tests included.
pub(crate) fn all() -> &'static [Package] {
    static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
        let metadata = cargo(&["metadata", "--format-version=1", "--filter-platform", TARGET]);
        let tree = cargo(&["tree", "--workspace", "--target", TARGET, "--prefix=none", "--format={p}"]);
        compiled(&serde_json::from_str(&metadata).unwrap(), &tree)
    });
    &PACKAGES
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .arg("--locked")
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The metadata also has packages of features that nobody switches on; the tree has not.
fn compiled(metadata: &Value, tree: &str) -> Vec<Package> {
    let list = |value: &Value| value.as_array().unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let in_tree: BTreeSet<(&str, &str)> = tree
        .lines()
        .filter_map(|line| line.split_once(" v"))
        .map(|(name, version)| (name, version.split(' ').next().unwrap_or_default()))
        .collect();
    let members: BTreeSet<String> = list(&metadata["workspace_members"]).iter().map(text).collect();
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            version: text(&package["version"]),
            licence: package["license"].as_str().map(str::to_owned),
            dependencies: list(&package["dependencies"])
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]))
                .collect(),
            is_member: members.contains(&text(&package["id"])),
        })
        .filter(|package| in_tree.contains(&(&package.name, &package.version)))
        .collect()
}

/// A package for samples.
pub(crate) fn sample(name: &str, version: &str, licence: Option<&str>) -> Package {
    Package {
        name: name.to_owned(),
        version: version.to_owned(),
        licence: licence.map(str::to_owned),
        dependencies: BTreeSet::new(),
        is_member: false,
    }
}

#[test]
fn the_graph_has_the_engine_and_the_members() {
    let named = |name: &str| all().iter().find(|package| package.name == name);
    assert!(named("rtc").is_some_and(|package| !package.is_member));
    assert!(
        named("switchyard").is_some_and(|package| package.is_member && package.dependencies.contains("rtc"))
    );
}
