//! PostgreSQL: the suite, on a server that the tests start and stop.

use switchyard::store::{Backend, Postgres};

use crate::{postgres_server::Server, suite::suite};

fn with_database(test: fn(&dyn Backend)) {
    let server = Server::shared();
    test(&Postgres::new(&server.database()).unwrap());
}

suite!(with_database);
