//! Asks a running server how it is, for what supervises containers and has no HTTP client of its own. The doors that
//! answer are `/healthz` and `/readyz` of [`crate::http`]; the connection is plain HTTP and never leaves for a proxy.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// Bytes of an answer that are read.
const ANSWER_BYTES: u64 = 4096;

/// Why a server is not known to be well.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// There is nobody, or nobody who answers in time.
    #[error("http://{address}{path} does not answer")]
    Silent {
        /// Who was asked.
        address: SocketAddr,
        /// At which door.
        path: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// The server says that it is not, or it is another program.
    #[error("http://{address}{path} answers: {answer}")]
    Refused {
        /// Who was asked.
        address: SocketAddr,
        /// At which door.
        path: &'static str,
        /// The status line, or what stands in its place.
        answer: String,
    },
}

/// Asks at one door; connecting and answering may each take as long as `patience`.
///
/// # Errors
/// Unless the server answers 200 in time.
pub fn ask(address: SocketAddr, path: &'static str, patience: Duration) -> Result<(), HealthError> {
    let answer =
        get(address, path, patience).map_err(|source| HealthError::Silent { address, path, source })?;
    let status = answer.lines().next().unwrap_or_default();
    if status.split(' ').nth(1) == Some("200") && status.starts_with("HTTP/1.") {
        return Ok(());
    }
    Err(HealthError::Refused { address, path, answer: status.to_owned() })
}

fn get(address: SocketAddr, path: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    const PATIENCE: Duration = Duration::from_millis(200);

    /// Answers one connection with this and returns what asking led to.
    fn asked(answer: &'static str) -> Result<(), HealthError> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let result = ask(address, "/readyz", PATIENCE);
        server.join().unwrap();
        result
    }

    #[test]
    fn only_200_is_well() {
        asked("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n").unwrap();
        let error = asked("HTTP/1.1 503 Service Unavailable\r\n\r\n").unwrap_err().to_string();
        assert!(error.ends_with("/readyz answers: HTTP/1.1 503 Service Unavailable"), "{error}");
        for other in ["", "SSH-2.0-x 200\r\n", "HTTP/1.1 2000 OK\r\n"] {
            assert!(matches!(asked(other), Err(HealthError::Refused { .. })), "{other}");
        }
    }

    #[test]
    fn who_does_not_answer_in_time_is_not_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(
            matches!(ask(address, "/healthz", PATIENCE), Err(HealthError::Silent { .. })),
            "it never accepts"
        );
        drop(listener);
        assert!(
            matches!(ask(address, "/healthz", PATIENCE), Err(HealthError::Silent { .. })),
            "nobody listens"
        );
    }
}
