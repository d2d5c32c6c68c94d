//! `tidemark certs`: certificates for members, to begin with.
//!
//! Owns: making a CA where there is none yet, and certificates of it.
//! Does not own: using them (`tidemark_shell::tls`).
//!
//! Whoever has a CA already uses that: a member needs a certificate for the name `tidemark-member`, for servers and clients.

use crate::output;
use anyhow::Context as _;
use clap::Args;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use std::path::{Path, PathBuf};
use tidemark_shell::tls::{CA_FILE, CERTIFICATE_FILE, KEY_FILE, MEMBER_NAME};
use time::{Duration, OffsetDateTime};

/// The CA's key, beside its certificate.
const CA_KEY_FILE: &str = "ca.key";
/// How long a CA is good for.
const CA_DAYS: i64 = 3_650;

/// What to make.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  tidemark certs --out certs --name localhost --name 127.0.0.1
  tidemark certs --out certs-b --ca certs --name node-b.example --days 90

Makes ca.crt and ca.key, where they are not there yet, and tls.crt and tls.key. Keep ca.key away from the members: who has it can make \
more of them.")]
pub(crate) struct CertsOptions {
    /// Folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,

    /// Folder with ca.crt and ca.key [default: that of --out]
    #[arg(long, value_name = "DIR")]
    ca: Option<PathBuf>,

    /// A host name or IP address that the certificate is for, beside tidemark-member; repeated for several
    #[arg(long, value_name = "NAME")]
    name: Vec<String>,

    /// Not for a member but for an edge or a proxy: the certificate proves the names alone
    #[arg(long)]
    no_member: bool,

    /// How long the certificate is good for, in days
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u32).range(1..=3650), default_value_t = 365)]
    days: u32,
}

/// Makes what is not there yet.
pub(crate) fn run(options: &CertsOptions) -> anyhow::Result<()> {
    let ca_folder = options.ca.as_ref().unwrap_or(&options.out);
    let now = OffsetDateTime::now_utc();
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("cannot make {}", options.out.display()))?;
    let (issuer, certificate, made) = ca(ca_folder, now)?;
    if ca_folder != &options.out {
        write(&options.out.join(CA_FILE), &certificate, false)?;
    }
    let key = KeyPair::generate().context("cannot make a key")?;
    let names = options.name.iter().cloned().chain((!options.no_member).then(|| MEMBER_NAME.to_owned()));
    let mut params = CertificateParams::new(names.collect::<Vec<_>>()).context("a --name is no host name")?;
    params.distinguished_name = named("tidemark member");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    if !options.no_member {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
    }
    (params.not_before, params.not_after) =
        (now - Duration::hours(1), now + Duration::days(options.days.into()));
    let signed = params.signed_by(&key, &issuer).context("cannot sign")?;
    write(&options.out.join(CERTIFICATE_FILE), &signed.pem(), false)?;
    write(&options.out.join(KEY_FILE), &key.serialize_pem(), true)?;
    let ca_made = if made { " and the CA" } else { "" };
    Ok(output::print(&format!(
        "made a certificate{ca_made} in {}, good for {} days\n",
        options.out.display(),
        options.days
    ))?)
}

/// The CA, its certificate, and whether it was made now.
fn ca(folder: &Path, now: OffsetDateTime) -> anyhow::Result<(Issuer<'static, KeyPair>, String, bool)> {
    let (certificate, key) = (folder.join(CA_FILE), folder.join(CA_KEY_FILE));
    if certificate.exists() || key.exists() {
        let read = |file: &Path| {
            std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))
        };
        let (certificate, key) = (read(&certificate)?, read(&key)?);
        let key = KeyPair::from_pem(&key).context("ca.key is no key")?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).context("ca.crt is no CA's certificate")?;
        return Ok((issuer, certificate, false));
    }
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut params = CertificateParams::default();
    params.distinguished_name = named("tidemark CA");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = (now - Duration::hours(1), now + Duration::days(CA_DAYS));
    let pair = KeyPair::generate().context("cannot make a key")?;
    let signed = params.self_signed(&pair).context("cannot sign")?.pem();
    write(&certificate, &signed, false)?;
    write(&key, &pair.serialize_pem(), true)?;
    Ok((Issuer::new(params, pair), signed, true))
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// Puts a file in its place as a whole, so that who reads it meanwhile has the old one or the new one.
fn write(file: &Path, text: &str, is_secret: bool) -> anyhow::Result<()> {
    use std::io::Write as _;
    let beside = file.with_extension("new");
    let mut options = std::fs::OpenOptions::new();
    options.create(true).truncate(true).write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, if is_secret { 0o600 } else { 0o644 });
    let written = options.open(&beside).and_then(|mut open| {
        open.write_all(text.as_bytes())?;
        open.sync_all()?;
        std::fs::rename(&beside, file)
    });
    written.with_context(|| format!("cannot write {}", file.display()))
}
