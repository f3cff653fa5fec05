//! The client of the API server, from a kubeconfig or from a pod's own account.
//!
//! Owns finding the configuration. Must never fall back to another cluster when a kubeconfig is
//! broken.

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
        "no kubeconfig and not in a cluster: pass --cluster FILES, or set KUBECONFIG\n  \
         kubeconfig: {kubeconfig}\n  \
         in a cluster: {in_cluster}"
    )]
    Nowhere {
        /// What was wrong with the kubeconfig.
        kubeconfig: Box<KubeconfigError>,
        /// Why this is not in a cluster.
        in_cluster: Box<InClusterError>,
    },
    /// There is a kubeconfig, and it cannot be used.
    #[error(
        "cannot use the kubeconfig{}: {error}; try `kubectl config get-contexts`",
        of(path.as_deref())
    )]
    Kubeconfig {
        /// The file, if one was named.
        path: Option<PathBuf>,
        /// The reason.
        error: Box<KubeconfigError>,
    },
    /// The configuration names a server, and no client can be made of it.
    #[error(
        "cannot make a client for {server}: {error}; check the certificates and the user in the \
         kubeconfig"
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

/// A client for this kubeconfig and context, as [`config`] finds them. Does not connect yet.
///
/// # Errors
/// When there is no configuration, or it cannot be used.
pub async fn client(kubeconfig: Option<&Path>, context: Option<&str>) -> Result<Client, ViewError> {
    connect(config(kubeconfig, context).await?)
}

/// The configuration from this kubeconfig and this context. Without a kubeconfig: `$KUBECONFIG`,
/// `~/.kube/config`, or the pod's own account. Without a context: the current one.
///
/// # Errors
/// When there is no configuration, or it cannot be used.
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
            // The pod's own account is used only if no context is named and there is no
            // kubeconfig: a broken kubeconfig must not lead to another cluster unnoticed.
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

/// A client for this configuration. Does not connect yet.
///
/// # Errors
/// When the credentials or the authority in it cannot be used.
pub fn connect(config: Config) -> Result<Client, ViewError> {
    let server = config.cluster_url.to_string();
    // TLS is rustls with the only provider that is compiled in, ring; a test builds such a client.
    Client::try_from(config).map_err(|error| ViewError::Client { server, error: Box::new(error) })
}

/// Whether there is no kubeconfig, or an empty one.
fn missing(error: &KubeconfigError) -> bool {
    match error {
        KubeconfigError::FindPath | KubeconfigError::CurrentContextNotSet => true,
        KubeconfigError::ReadConfig(error, _) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}
