import Foundation

/// A program that runs beside the tests, with its output thrown away.
///
/// Foundation's `Process` cannot be used: on Linux it reads the list of open descriptors beyond its buffer's end, which
/// crashes while some thousand of them are open.
final class ChildProcess {
    private let id: pid_t
    private var hasEnded = false

    struct CannotStart: Error {
        var path: String
        var code: Int32
    }

    init(_ path: String, _ arguments: [String]) throws {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        for descriptor in [STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO] {
            posix_spawn_file_actions_addopen(&actions, descriptor, "/dev/null", O_RDWR, 0)
        }
        var words = ([path] + arguments).map { strdup($0) } + [nil]
        defer { words.forEach { free($0) } }
        var id = pid_t()
        let code = posix_spawn(&id, path, &actions, nil, &words, environ)
        guard code == 0 else { throw CannotStart(path: path, code: code) }
        self.id = id
    }

    var isRunning: Bool {
        if !hasEnded { hasEnded = waitpid(id, nil, WNOHANG) == id }
        return !hasEnded
    }

    /// Ends it and waits for its end.
    func stop() {
        guard isRunning else { return }
        kill(id, SIGTERM)
        waitpid(id, nil, 0)
        hasEnded = true
    }
}
