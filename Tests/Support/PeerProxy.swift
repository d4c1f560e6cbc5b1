import Foundation
import NIOCore
import NIOPosix

/// nginx or HAProxy in front of a server, with their own defaults: what they make of the same bytes.
package final class PeerProxy {
    package enum Kind: String, CaseIterable, Sendable { case nginx, haproxy }

    package let port: Int
    private let process: ChildProcess
    private let folder: URL

    package struct NotListening: Error {
        package let kind: Kind
    }

    /// Starts it on a free port and waits until it listens; nil where it is not installed.
    /// - Throws: ``NotListening`` where it ends or does not listen within 10 s.
    package static func start(_ kind: Kind, upstream: Int) async throws -> PeerProxy? {
        guard let proxy = try PeerProxy(kind, port: await freePort(), upstream: upstream) else { return nil }
        let client = RawClient(port: proxy.port)
        let end = ContinuousClock.now + .seconds(10)
        while (try? await client.request("GET", "/")) == nil {
            guard proxy.process.isRunning, ContinuousClock.now < end else {
                proxy.stop()
                throw NotListening(kind: kind)
            }
            try await Task.sleep(for: .milliseconds(10))
        }
        return proxy
    }

    private init?(_ kind: Kind, port: Int, upstream: Int) throws {
        let places = ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
        let found = places.map { "\($0)/\(kind.rawValue)" }.first { FileManager.default.isExecutableFile(atPath: $0) }
        guard let path = found else { return nil }
        self.port = port
        let folder = FileManager.default.temporaryDirectory.appending(path: "peer-\(UUID().uuidString)")
        self.folder = folder
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        let configuration = folder.appending(path: "\(kind.rawValue).conf")
        let arguments: [String]
        switch kind {
        case .nginx:
            let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map { "\($0)_temp_path \(folder.path)/\($0);" }.joined(separator: " ")
            try """
            daemon off; worker_processes 1; pid \(folder.path)/pid; error_log /dev/null;
            events { worker_connections 64; }
            http { access_log off; \(temporary)
              server { listen 127.0.0.1:\(port); location / { proxy_pass http://127.0.0.1:\(upstream); } } }
            """.write(to: configuration, atomically: true, encoding: .utf8)
            arguments = ["-c", configuration.path, "-p", folder.path, "-e", "/dev/null"]
        case .haproxy:
            try """
            defaults
              mode http
              timeout connect 2s
              timeout client 2s
              timeout server 2s
            frontend f
              bind 127.0.0.1:\(port)
              default_backend b
            backend b
              server s 127.0.0.1:\(upstream)

            """.write(to: configuration, atomically: true, encoding: .utf8)
            arguments = ["-db", "-f", configuration.path]
        }
        process = try ChildProcess(path, arguments)
    }

    /// One that the system chose a moment ago.
    private static func freePort() async throws -> Int {
        let listener = try await ServerBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .bind(host: "127.0.0.1", port: 0).get()
        let port = listener.localAddress?.port
        try await listener.close()
        return port ?? 0
    }

    package func stop() {
        process.stop()
        try? FileManager.default.removeItem(at: folder)
    }
}
