//! TLS: what a member shows, whom it believes, and connections that are secured with it.
//!
//! Owns: the folder with certificates and reading it again when it changes, handshakes on both sides, and telling members from
//! others.
//! Does not own: what members may do that others may not (`tidemark-access`), making certificates (the program).
//!
//! A member's certificate comes from the cluster's CA and is for the name [`MEMBER_NAME`], beside those of its host. Members and
//! clients believe whoever shows one, under whatever address: addresses come and go, and nothing but the CA makes members. A host
//! that shows a certificate for its own name is believed as well.

use crate::work;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig,
    SignatureScheme,
};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name that certificates of members are for.
pub const MEMBER_NAME: &str = "tidemark-member";
/// The file with the certificates of the cluster's CA, in a folder with certificates.
pub const CA_FILE: &str = "ca.crt";
/// The file with the certificate of this process, and those between it and the CA.
pub const CERTIFICATE_FILE: &str = "tls.crt";
/// The file with its key.
pub const KEY_FILE: &str = "tls.key";
/// How often it is looked whether the files are others.
const LOOK: Duration = Duration::from_secs(1);
/// How long a handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Protocols that are spoken over TLS: HTTP/2, which gRPC needs, and HTTP/1.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why TLS cannot be spoken with these files. Mend them.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is missing, or is not PEM.
    #[error("cannot read {}: {message}", file.display())]
    File {
        /// Which one.
        file: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Certificate and key do not go together, or cannot be used.
    #[error("cannot use the certificates in {}: {error}", folder.display())]
    Unusable {
        /// Where they are.
        folder: PathBuf,
        /// What is wrong.
        error: Error,
    },
    /// There is nobody to believe.
    #[error("no certificate to believe: {0}")]
    NoRoots(String),
}

/// A member's certificates, as they are now. Clones share them.
#[derive(Clone, Debug)]
pub struct MemberTls(watch::Receiver<Arc<Loaded>>);

#[derive(Debug)]
struct Loaded {
    /// What was read.
    files: [Vec<u8>; 3],
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl MemberTls {
    /// Reads a folder with certificates, and goes on to do so for as long as somebody has the value: new files are used for new
    /// connections, and files that cannot be used are not. Needs a runtime.
    ///
    /// # Errors
    /// Where the files cannot be used now.
    pub fn open(folder: &Path) -> Result<Self, TlsError> {
        let (sender, receiver) = watch::channel(Arc::new(Loaded::read(folder)?));
        tokio::spawn(follow(folder.to_owned(), sender));
        Ok(Self(receiver))
    }

    /// Secures a connection that was accepted. Tells whether the other side is a member, too.
    ///
    /// # Errors
    /// Where the handshake fails or takes too long.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> io::Result<(tokio_rustls::server::TlsStream<TcpStream>, bool)> {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.0.borrow().server));
        let stream = timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
        let is_member =
            stream.get_ref().1.peer_certificates().is_some_and(|shown| shown.first().is_some_and(is_member));
        Ok((stream, is_member))
    }

    /// What this member opens connections with.
    pub fn client(&self) -> ClientTls {
        ClientTls(Source::Member(self.clone()))
    }
}

/// What connections are opened with. Clones share it.
#[derive(Clone, Debug)]
pub struct ClientTls(Source);

#[derive(Clone, Debug)]
enum Source {
    Member(MemberTls),
    Fixed(Arc<ClientConfig>),
}

impl ClientTls {
    /// Believes certificates of the CAs in this file.
    ///
    /// # Errors
    /// Where it has none.
    pub fn believing(file: &Path) -> Result<Self, TlsError> {
        Self::with_roots(roots(file, &read(file)?)?)
    }

    /// Believes whom the system believes.
    ///
    /// # Errors
    /// Where the system believes nobody.
    pub fn believing_the_system() -> Result<Self, TlsError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        if roots.add_parsable_certificates(found.certs).0 == 0 {
            return Err(TlsError::NoRoots("the system has none: name the cluster's CA with --ca".to_owned()));
        }
        Self::with_roots(roots)
    }

    fn with_roots(roots: RootCertStore) -> Result<Self, TlsError> {
        let verifier = Believes::new(roots).map_err(TlsError::NoRoots)?;
        let config = client_config(verifier).map_err(|error| TlsError::NoRoots(error.to_string()))?;
        Ok(Self(Source::Fixed(Arc::new(config.with_no_client_auth()).with_protocols())))
    }

    fn config(&self) -> Arc<ClientConfig> {
        match &self.0 {
            Source::Member(member) => Arc::clone(&member.0.borrow().client),
            Source::Fixed(config) => Arc::clone(config),
        }
    }

    /// Secures a connection to `host`.
    ///
    /// # Errors
    /// Where the handshake fails or takes too long.
    pub async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        timeout(HANDSHAKE_TIMEOUT, TlsConnector::from(self.config()).connect(name, stream)).await?
    }
}

trait WithProtocols {
    fn with_protocols(self) -> Self;
}

impl WithProtocols for Arc<ClientConfig> {
    fn with_protocols(mut self) -> Self {
        // gRPC alone is spoken by us.
        Arc::make_mut(&mut self).alpn_protocols = vec![PROTOCOLS[0].to_vec()];
        self
    }
}

/// Reads the folder again and again, while somebody wants to know.
async fn follow(folder: PathBuf, loaded: watch::Sender<Arc<Loaded>>) {
    let mut complained: Option<String> = None;
    loop {
        tokio::select! {
            biased;
            () = loaded.closed() => return,
            () = sleep(LOOK) => {}
        }
        let known = Arc::clone(&loaded.borrow());
        let reading = folder.clone();
        match work::run(move || read_files(&reading)).await {
            Ok(files) if files == known.files => complained = None,
            files => match files.and_then(|files| Loaded::of(&folder, files)) {
                Ok(fresh) => {
                    tracing::info!(folder = %folder.display(), "new certificates are used for new connections");
                    loaded.send_replace(Arc::new(fresh));
                    complained = None;
                }
                // Said once: the files may be in the middle of being exchanged, or stay as they are for long.
                Err(error) if complained.as_ref() != Some(&error.to_string()) => {
                    tracing::warn!(%error, "the certificates have changed and cannot be used; going on with those from before");
                    complained = Some(error.to_string());
                }
                Err(_) => {}
            },
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|error| TlsError::File { file: file.to_owned(), message: error.to_string() })
}

fn read_files(folder: &Path) -> Result<[Vec<u8>; 3], TlsError> {
    let read = |name: &str| read(&folder.join(name));
    Ok([read(CA_FILE)?, read(CERTIFICATE_FILE)?, read(KEY_FILE)?])
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bad = |message: String| TlsError::File { file: file.to_owned(), message };
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found.map_err(|error| bad(error.to_string()))? {
        found if found.is_empty() => Err(bad("it has no certificate in PEM form".to_owned())),
        found => Ok(found),
    }
}

fn roots(file: &Path, pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file, pem)? {
        let bad = |error: Error| TlsError::File { file: file.to_owned(), message: error.to_string() };
        roots.add(certificate).map_err(bad)?;
    }
    Ok(roots)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

type WantsCertificate = rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>;

fn client_config(verifier: Believes) -> Result<WantsCertificate, Error> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    Ok(builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier)))
}

impl Loaded {
    fn read(folder: &Path) -> Result<Self, TlsError> {
        Self::of(folder, read_files(folder)?)
    }

    fn of(folder: &Path, files: [Vec<u8>; 3]) -> Result<Self, TlsError> {
        let [ca, shown, key] = &files;
        let roots = roots(&folder.join(CA_FILE), ca)?;
        let shown = certificates(&folder.join(CERTIFICATE_FILE), shown)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| TlsError::File { file: folder.join(KEY_FILE), message: error.to_string() })?;
        let unusable = |error| TlsError::Unusable { folder: folder.to_owned(), error };
        let other = |error: &dyn std::fmt::Display| unusable(Error::General(error.to_string()));
        // Who shows no certificate is no member, and may have a token.
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider())
            .allow_unauthenticated()
            .build()
            .map_err(|error| other(&error))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(shown.clone(), key.clone_key())
            .map_err(unusable)?;
        server.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        let believes = Believes::new(roots).map_err(|error| other(&error))?;
        let client = client_config(believes).map_err(unusable)?;
        let client = client.with_client_auth_cert(shown, key).map_err(unusable)?;
        Ok(Self { files, server: Arc::new(server), client: Arc::new(client).with_protocols() })
    }
}

/// Whether a certificate, which the CA signed, is a member's.
fn is_member(certificate: &CertificateDer<'_>) -> bool {
    let Ok(name) = DnsName::try_from(MEMBER_NAME) else { return false };
    let parsed = webpki::EndEntityCert::try_from(certificate);
    parsed.is_ok_and(|parsed| parsed.verify_is_valid_for_subject_name(&ServerName::DnsName(name)).is_ok())
}

/// Believes members under any address, and others under their own name.
#[derive(Debug)]
struct Believes {
    web: Arc<WebPkiServerVerifier>,
    member: ServerName<'static>,
}

impl Believes {
    fn new(roots: RootCertStore) -> Result<Self, String> {
        let web = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build();
        let member = DnsName::try_from(MEMBER_NAME).map_err(|error| error.to_string())?;
        Ok(Self {
            web: web.map_err(|error| error.to_string())?,
            member: ServerName::DnsName(member.to_owned()),
        })
    }
}

impl ServerCertVerifier for Believes {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.web.verify_server_cert(shown, between, host, ocsp, now) {
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => self.web.verify_server_cert(shown, between, &self.member, ocsp, now),
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.web.verify_tls12_signature(message, shown, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.web.verify_tls13_signature(message, shown, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.web.supported_verify_schemes()
    }
}
