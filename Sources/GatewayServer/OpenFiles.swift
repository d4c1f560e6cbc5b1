import GatewayCore
import Glibc
import Logging

/// The process's open files: each client connection is one, and so is each connection to an upstream.
package enum OpenFiles {
    /// Files beside the clients' connections and their upstreams': idle connections to upstreams, the operators', the
    /// history's, logs.
    private static let reserve = 1024

    /// Raises the system's soft limit to what the configuration may need, as far as the hard limit lets it: 1024, which
    /// many systems set, would be 500 requests at once. Says so in the log where that is not enough.
    ///
    /// The kernel's table is made as large at once. It doubles when it is full, and in a process with threads it then
    /// waits for an RCU grace period, some 10 ms in which no connection can be opened (expand_fdtable in fs/file.c).
    package static func makeRoom(for server: ServerConfiguration, _ logger: Logger) {
        let needed = rlim_t(2 * server.maxConnections + reserve)
        var limit = rlimit()
        guard getrlimit(resource, &limit) == 0 else { return }
        if limit.rlim_cur < needed {
            limit.rlim_cur = min(needed, limit.rlim_max)
            setrlimit(resource, &limit)
        }
        if limit.rlim_cur < needed {
            logger.warning(
                "the system allows too few open files for server.max_connections",
                metadata: [
                    "limit": .stringConvertible(limit.rlim_cur), "needed": .stringConvertible(needed),
                    "max_connections": .stringConvertible(server.maxConnections),
                ])
        }
        let last = fcntl(2, F_DUPFD_CLOEXEC, Int32(min(limit.rlim_cur, needed)) - 1)
        if last >= 0 { close(last) }
    }

    private static var resource: __rlimit_resource_t { __rlimit_resource_t(RLIMIT_NOFILE.rawValue) }
}
