//! The way to the API server.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// A watch is closed by the server after 290 s at the latest: a connection that is silent for
/// longer is dead.
const SILENCE: Duration = Duration::from_secs(310);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Nothing says where the API server is.
    #[error(
        "no kubeconfig and not in a cluster: pass --cluster FILES, or set KUBECONFIG\n  kubeconfig: {kubeconfig}\n  \
         in a cluster: {in_cluster}"
    )]
    Nowhere {
        /// What was wrong with the kubeconfig.
        kubeconfig: Box<KubeconfigError>,
        /// Why this is not in a cluster.
        in_cluster: Box<InClusterError>,
    },
    /// A kubeconfig is there, and is no good.
    #[error("cannot use the kubeconfig{}: {error}; try `kubectl config get-contexts`", of(path.as_deref()))]
    Kubeconfig {
        /// The file, where one was asked for.
        path: Option<PathBuf>,
        /// The reason.
        error: Box<KubeconfigError>,
    },
    /// It says where, and no connection can be made of it.
    #[error(
        "cannot make a client for {server}: {error}; check the certificates and the user in the kubeconfig"
    )]
    Client {
        /// The API server.
        server: String,
        /// The reason.
        error: Box<kube::Error>,
    },
}

fn of(path: Option<&Path>) -> String {
    path.map(|p| format!(" {}", p.display())).unwrap_or_default()
}

/// A client of this kubeconfig and context, as [`config`] finds it. Does not connect yet.
///
/// # Errors
/// When nothing says where the API server is, or what says so is no good.
pub async fn client(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client, ViewError> {
    connect(config(kubeconfig, context).await?)
}

/// What this kubeconfig (else `$KUBECONFIG`, `~/.kube/config`, or the pod's own account) and
/// context (else the current one) say.
///
/// # Errors
/// When nothing says where the API server is, or what says so is no good.
pub async fn config(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Config, ViewError> {
    let options =
        KubeConfigOptions { context: context.map(str::to_owned), ..KubeConfigOptions::default() };
    let fail = |error| ViewError::Kubeconfig {
        path: kubeconfig.map(Path::to_owned),
        error: Box::new(error),
    };
    let mut config = match kubeconfig {
        Some(path) => {
            let read = Kubeconfig::read_from(path).map_err(fail)?;
            Config::from_custom_kubeconfig(read, &options).await.map_err(fail)?
        }
        None => match Config::from_kubeconfig(&options).await {
            Ok(config) => config,
            // A context is one of a kubeconfig; and a broken kubeconfig must not lead to another
            // cluster unnoticed.
            Err(error) if context.is_some() || !missing(&error) => return Err(fail(error)),
            Err(error) => Config::incluster().map_err(|in_cluster| ViewError::Nowhere {
                kubeconfig: Box::new(error),
                in_cluster: Box::new(in_cluster),
            })?,
        },
    };
    config.read_timeout = Some(SILENCE);
    Ok(config)
}

/// A client. Does not connect yet.
///
/// # Errors
/// When what it shows or trusts is no good.
pub fn connect(config: Config) -> Result<Client, ViewError> {
    let server = config.cluster_url.to_string();
    // TLS is rustls with the only provider that is compiled in, ring; a test builds such a client.
    Client::try_from(config).map_err(|error| ViewError::Client { server, error: Box::new(error) })
}

/// Whether there is no kubeconfig at all, or one without a word in it.
fn missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath | KubeconfigError::CurrentContextNotSet => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
