//! `switchyard-loadtest`: loads a server with simulated browsers and accounts for every message.

mod command;

use std::process::ExitCode;

use clap::Parser;

use crate::command::{COULD_NOT_RUN, Cli, Command};

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => command::run::run(&args),
        Command::Turn(args) => command::turn::turn(&args),
        Command::List => command::list(),
        Command::Show { name } => command::show(&name),
        Command::Report(args) => command::report(&args),
        Command::Compare(args) => command::compare(&args),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("switchyard-loadtest: {error:#}");
            ExitCode::from(COULD_NOT_RUN)
        }
    }
}
