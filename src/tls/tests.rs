//! Certificates in files that are good, bad and replaced, and handshakes in memory that show which one is used.

use std::{fs, os::unix::fs::symlink, time::Instant};

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio_rustls::rustls::{ClientConnection, ServerConnection, pki_types::ServerName};

use super::*;

/// A day in 2027.
const NOW: i64 = 1_800_000_000;

/// A certificate and its key in PEM, for `localhost`, from 2020 to this year.
fn pair(year: i32) -> [String; 2] {
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(year, 1, 1);
    let key = KeyPair::generate().unwrap();
    [params.self_signed(&key).unwrap().pem(), key.serialize_pem()]
}

struct Folder(TempDir);

impl Folder {
    fn with(contents: &[String; 2]) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write(contents);
        folder
    }

    fn files(&self) -> Files {
        Files { certificate: self.0.path().join("certificate.pem"), key: self.0.path().join("key.pem") }
    }

    fn write(&self, [certificate, key]: &[String; 2]) {
        let files = self.files();
        fs::write(files.certificate, certificate).unwrap();
        fs::write(files.key, key).unwrap();
    }

    fn open(&self) -> Certificates {
        Certificates::from_files(self.files(), NOW).unwrap()
    }

    fn refused(&self, now: i64) -> String {
        let refused = Certificates::from_files(self.files(), now).unwrap_err().to_string();
        refused.replace(&self.0.path().display().to_string(), "/folder")
    }
}

/// Moves what both ends have to say until neither has anything. The client's error, if it has one.
fn talk(client: &mut ClientConnection, server: &mut ServerConnection) -> Result<(), rustls::Error> {
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut unread = &bytes[..];
        while !unread.is_empty() {
            server.read_tls(&mut unread).unwrap();
            server.process_new_packets()?;
        }
        bytes.clear();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut unread = &bytes[..];
        while !unread.is_empty() {
            client.read_tls(&mut unread).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(())
}

/// The certificate that a client is shown who trusts `trusted` and asks for this name.
fn shown(
    certificates: &Certificates,
    trusted: CertificateDer<'static>,
    name: &str,
) -> Result<CertificateDer<'static>, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(testing::client(trusted, &[]), name).unwrap();
    let server = certificates.acceptor(&[]).unwrap();
    let mut server = ServerConnection::new(server.indifferent).unwrap();
    talk(&mut client, &mut server)?;
    assert!(!client.is_handshaking());
    Ok(client.peer_certificates().unwrap()[0].clone().into_owned())
}

#[test]
fn what_cannot_be_used_says_what_to_change() {
    let good = pair(2030);
    let other = pair(2030);
    let [certificate, key] = &good;
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIGjMF8GCSqGSIb3DQEFDTBSMDEGCSqG\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let empty = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    for (certificate, key, sentence) in [
        (key, key, "turn.listen.tls_certificate: there is no certificate in /folder/certificate.pem; name"),
        (&String::new(), key, "turn.listen.tls_certificate: there is no certificate in"),
        (&empty.to_owned(), key, "turn.listen.tls_certificate: the first certificate in"),
        (certificate, certificate, "turn.listen.tls_key: there is no private key in /folder/key.pem; name"),
        (
            certificate,
            &encrypted.to_owned(),
            "turn.listen.tls_key: the private key in /folder/key.pem is enc",
        ),
        (
            certificate,
            &other[1],
            "turn.listen.tls_key: the private key in /folder/key.pem is not that of the",
        ),
        // The chain before the server's own.
        (
            &[&*other[0], certificate].concat(),
            key,
            "turn.listen.tls_key: the private key in /folder/key.pem is",
        ),
    ] {
        let refused = Folder::with(&[certificate.clone(), key.clone()]).refused(NOW);
        assert!(refused.starts_with(sentence), "{refused}");
        let secret = key.lines().nth(1).unwrap_or("----");
        assert!(!refused.contains(secret), "the key is told");
    }
    let folder = Folder::with(&good);
    let sentence =
        "turn.listen.tls_certificate: the certificate in /folder/certificate.pem has expired 3 days";
    assert!(folder.refused(1_893_456_000 + 3 * DAY + 1).starts_with(sentence));
    let sentence =
        "turn.listen.tls_certificate: the certificate in /folder/certificate.pem holds only in 2 days";
    assert!(folder.refused(1_577_836_800 - 2 * DAY).starts_with(sentence));
    fs::remove_file(folder.files().key).unwrap();
    let sentence = "turn.listen.tls_key: cannot read /folder/key.pem: No such file or directory";
    assert!(folder.refused(NOW).starts_with(sentence));
    fs::create_dir(folder.files().key).unwrap();
    assert!(
        folder.refused(NOW).starts_with("turn.listen.tls_key: cannot read /folder/key.pem: it is no file")
    );
}

#[test]
fn a_certificate_that_is_replaced_is_shown_from_then_on() {
    let folder = Folder::with(&pair(2030));
    let certificates = folder.open();
    let first = certificates.certificate();
    assert!(certificates.look(NOW).is_none(), "nothing has changed");
    assert_eq!(certificates.expiry(), 1_893_456_000);
    // Written anew in place, by a new file under the old name, by a link that points elsewhere.
    let elsewhere = Folder::with(&pair(2033));
    let ways: [&dyn Fn(); 3] = [
        &|| folder.write(&pair(2031)),
        &|| {
            let new = Folder::with(&pair(2032));
            fs::rename(new.files().certificate, folder.files().certificate).unwrap();
            fs::rename(new.files().key, folder.files().key).unwrap();
        },
        &|| {
            for (old, new) in [
                (folder.files().certificate, elsewhere.files().certificate),
                (folder.files().key, elsewhere.files().key),
            ] {
                fs::remove_file(&old).unwrap();
                symlink(new, old).unwrap();
            }
        },
    ];
    let mut before = first;
    for way in ways {
        way();
        assert!(matches!(certificates.look(NOW), Some(Ok(()))));
        let now = certificates.certificate();
        assert_ne!(now, before);
        assert_eq!(shown(&certificates, now.clone(), "localhost"), Ok(now.clone()));
        assert!(shown(&certificates, before, "localhost").is_err());
        assert!(certificates.look(NOW).is_none());
        before = now;
    }
    assert_eq!(certificates.expiry(), 1_988_150_400);
}

#[test]
fn what_is_bad_is_told_once_and_the_one_before_stays() {
    let good = pair(2030);
    let folder = Folder::with(&good);
    let certificates = folder.open();
    let in_use = certificates.certificate();
    let new = pair(2031);
    // Half of it is there at the first look.
    fs::write(folder.files().certificate, &new[0]).unwrap();
    assert!(certificates.look(NOW).is_none());
    fs::write(folder.files().key, &new[1]).unwrap();
    assert!(matches!(certificates.look(NOW), Some(Ok(()))));
    assert_ne!(certificates.certificate(), in_use);
    let in_use = certificates.certificate();
    let bad: [&dyn Fn(); 3] = [
        &|| fs::write(folder.files().key, &good[1]).unwrap(),
        &|| fs::remove_file(folder.files().key).unwrap(),
        &|| folder.write(&pair(2026)),
    ];
    for spoil in bad {
        spoil();
        assert!(certificates.look(NOW).is_none(), "it may be half of a change");
        assert!(matches!(certificates.look(NOW), Some(Err(_))));
        assert!(certificates.look(NOW).is_none(), "it has been told");
        assert_eq!(certificates.certificate(), in_use);
        assert_eq!(shown(&certificates, in_use.clone(), "localhost"), Ok(in_use.clone()));
    }
    // One that holds later is taken then, without a change of the files.
    let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_before = date_time_ymd(2029, 1, 1);
    let key = KeyPair::generate().unwrap();
    folder.write(&[params.self_signed(&key).unwrap().pem(), key.serialize_pem()]);
    assert!(certificates.look(NOW).is_none());
    assert!(matches!(certificates.look(NOW), Some(Err(CertificateError::Early(..)))));
    assert!(matches!(certificates.look(NOW + 1000 * DAY), Some(Ok(()))));
    // Back to what is in use: there is nothing to tell.
    fs::remove_file(folder.files().key).unwrap();
    assert!(certificates.look(NOW).is_none());
    fs::write(folder.files().key, key.serialize_pem()).unwrap();
    assert!(certificates.look(NOW).is_none());
    fs::remove_file(folder.files().key).unwrap();
    assert!(certificates.look(NOW).is_none());
    assert!(matches!(certificates.look(NOW), Some(Err(_))));
}

#[tokio::test]
async fn changes_are_counted_and_the_expiry_is_shown() {
    let folder = Folder::with(&pair(4000));
    let metrics = Arc::new(Metrics::new());
    let certificates = Arc::new(Certificates::from_files(folder.files(), unix_now()).unwrap());
    let watching = tokio::spawn(certificates.watch(metrics.clone(), Duration::from_millis(5)));
    let wait = async |outcome| {
        let begin = Instant::now();
        while metrics.tls.reloads(outcome) == 0 {
            assert!(begin.elapsed() < Duration::from_secs(20), "{outcome:?} is not counted");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    folder.write(&pair(4001));
    wait(Reload::Done).await;
    fs::remove_file(folder.files().key).unwrap();
    wait(Reload::Failed).await;
    assert_eq!((metrics.tls.reloads(Reload::Done), metrics.tls.reloads(Reload::Failed)), (1, 1));
    assert_eq!(metrics.tls.expiry.get(), 64_092_211_200);
    watching.abort();
}

#[test]
fn development_has_one_for_all_its_names() {
    let mut config = Config { mode: Some(Mode::Development), ..Config::default() };
    config.turn.host = Some("turn.example.org".to_owned());
    let addresses = ["192.0.2.7", "2001:db8::7", "127.0.0.1"].map(|ip| ip.parse().unwrap());
    let certificates = Certificates::open(&config, &addresses).unwrap().unwrap();
    let trusted = certificates.certificate();
    for name in ["localhost", "turn.example.org", "127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"] {
        assert_eq!(shown(&certificates, trusted.clone(), name), Ok(trusted.clone()), "{name}");
    }
    assert!(shown(&certificates, trusted, "example.org").is_err());
    assert!(certificates.look(NOW).is_none());
    config.mode = Some(Mode::Production);
    assert!(Certificates::open(&config, &addresses).unwrap().is_none());
    let folder = Folder::with(&pair(4000));
    config.turn.listen.tls_certificate = Some(folder.files().certificate);
    config.turn.listen.tls_key = Some(folder.files().key);
    let certificates = Certificates::open(&config, &addresses).unwrap().unwrap();
    assert_eq!(certificates.expiry(), 64_060_588_800);
}
