//! Tells cargo that the client's folders are part of the program: `include_dir` sees a file that changes, and not one
//! that is new.

fn main() {
    println!("cargo::rerun-if-changed=client/src");
    println!("cargo::rerun-if-changed=client/demo");
}
