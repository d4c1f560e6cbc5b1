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
        let needed = needed(for: server)
        if limit < needed {
            var raised = rlimit()
            getrlimit(resource, &raised)
            raised.rlim_cur = min(rlim_t(needed), raised.rlim_max)
            setrlimit(resource, &raised)
        }
        if limit < needed {
            logger.warning(
                "the system allows too few open files for server.max_connections",
                metadata: [
                    "limit": .stringConvertible(limit), "needed": .stringConvertible(needed),
                    "max_connections": .stringConvertible(server.maxConnections),
                    "clients": .stringConvertible(clientRoom(for: server)),
                ])
        }
        let last = fcntl(2, F_DUPFD_CLOEXEC, Int32(min(limit, needed)) - 1)
        if last >= 0 { close(last) }
    }

    /// Connections of clients that leave room for those to upstreams, which are not to fail for want of a file.
    static func clientRoom(for server: ServerConfiguration) -> Int {
        let limit = limit
        if limit >= needed(for: server) { return server.maxConnections }
        return min(server.maxConnections, max(limit / 3, (limit - reserve) / 2))
    }

    private static func needed(for server: ServerConfiguration) -> Int { 2 * server.maxConnections + reserve }

    /// The system's, at present.
    static var limit: Int {
        var limit = rlimit()
        return getrlimit(resource, &limit) == 0 ? Int(clamping: limit.rlim_cur) : .max
    }

    private static var resource: __rlimit_resource_t { __rlimit_resource_t(RLIMIT_NOFILE.rawValue) }
}
