import Foundation
import GatewayCore
import Testing

@testable import GatewayServer

/// The configuration file, its mistakes, and what overrides it.
struct ConfigurationTests {
    func load(
        _ text: String, environment: [String: String] = [:], listen: [String] = []
    ) throws -> LoadedConfiguration {
        let url = FileManager.default.temporaryDirectory.appending(path: "gateway-\(UUID()).conf")
        try Data(text.utf8).write(to: url)
        defer { try? FileManager.default.removeItem(at: url) }
        return try ConfigurationLoader.load(file: url.path, environment: environment, listen: listen)
    }

    static let upstream = "[[upstream]]\nname = \"u\"\nkind = \"ollama\"\nurl = \"http://127.0.0.1:1\"\n"

    private static var shippedFile: String {
        get throws {
            let root = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
                .deletingLastPathComponent()
            return try String(contentsOf: root.appending(path: "gateway.conf"), encoding: .utf8)
        }
    }

    /// SQLite would move it aside as damaged.
    @Test func theFileItselfIsNoHistory() throws {
        let url = FileManager.default.temporaryDirectory.appending(path: "gateway-\(UUID()).conf")
        defer { try? FileManager.default.removeItem(at: url) }
        try Data("[history]\npath = \"\(url.path)\"\n\(Self.upstream)".utf8).write(to: url)
        let error = #expect(throws: ConfigurationError.self) {
            try ConfigurationLoader.load(file: url.path, environment: [:])
        }
        #expect(error?.description.contains("history.path: this is the configuration file itself") == true)
    }

    @Test func onlyAKeyInTheFileItselfGivesAWarning() throws {
        let literal = try load(Self.upstream + "api_key = \"u\"\n").warnings
        #expect(literal.count == 1 && literal[0].contains("holds an api_key"), "\(literal)")
        #expect(try load(Self.upstream + "api_key = \"env:KEY\"\n", environment: ["KEY": "u"]).warnings.isEmpty)
    }

    @Test func theShippedFileLoads() throws {
        let configuration = try load(try Self.shippedFile).configuration
        #expect(configuration.upstreams.map(\.name) == ["ollama", "backend"])
        #expect(configuration.server == ServerConfiguration())
    }

    /// Every commented key, uncommented, says what the default is: the file cannot drift from the code.
    @Test func theShippedFileShowsTheDefaults() throws {
        let shipped = try Self.shippedFile
        var uncommented = shipped.split(separator: "\n", omittingEmptySubsequences: false).map { line in
            line.firstMatch(of: /^# (\w+ = .*)$/).map { String($0.1) } ?? String(line)
        }
        uncommented.removeAll {
            $0.hasPrefix("api_key") || $0.hasPrefix("upstream_models") || $0.hasPrefix("token_hash")
        }
        let text = uncommented.joined(separator: "\n").replacing("# [[model]]", with: "[[model]]")
        let plain = try load(shipped).configuration
        var all = try load(text).configuration
        #expect(all.models.map(\.id) == ["mistralai/Mistral-7B-Instruct-v0.2"])
        all.models = plain.models
        #expect(all == plain)
    }

    @Test func withoutAFileTheUpstreamsOfThePythonEndpoint() throws {
        let configuration = try ConfigurationLoader.load(file: nil, environment: [:]).configuration
        #expect(configuration.upstreams.map(\.url.text) == ["http://127.0.0.1:11434", "http://127.0.0.1:5000/query"])
    }

    @Test func theEnvironmentOverridesTheFile() throws {
        let loaded = try load(
            Self.upstream.replacing("\"u\"", with: "\"ollama\""),
            environment: [
                "OLLAMA_BASE_URL": "http://gpu:1234", "OLLAMA_MODEL": "mistral", "LLM_SERVICE_URL": "http://llm/query/",
                "WEBLLM_GATEWAY_LISTEN": "127.0.0.1:9",
            ])
        #expect(loaded.configuration.upstreams.map(\.url.text) == ["http://gpu:1234", "http://llm:80/query/"])
        #expect(loaded.configuration.upstreams[0].model == "mistral")
        #expect(loaded.configuration.server.listen == [.tcp(host: "127.0.0.1", port: 9)])
        #expect(loaded.entries.contains { $0.source == .environment("OLLAMA_MODEL") })
        let byCommandLine = try load(
            Self.upstream, environment: ["WEBLLM_GATEWAY_LISTEN": "127.0.0.1:9"], listen: ["127.0.0.1:10"])
        #expect(byCommandLine.configuration.server.listen == [.tcp(host: "127.0.0.1", port: 10)])
    }

    /// Where the file and the environment say something, the latter is what counts, and is told.
    @Test func eachKeyIsToldOnceWithItsSource() throws {
        let file = Self.upstream.replacing("\"u\"", with: "\"ollama\"") + "model = \"llama3\"\n"
        let environment = ["OLLAMA_BASE_URL": "http://gpu:1234", "OLLAMA_MODEL": "mistral"]
        let loaded = try load(
            "[server]\nlisten = [\"127.0.0.1:1\"]\n" + file, environment: environment, listen: ["[::1]:2"])
        func entry(_ key: String, _ entries: [ConfigurationEntry]) throws -> String {
            let all = entries.filter { $0.key == key }
            try #require(all.count == 1, "\(key): \(all)")
            return "\(all[0].value) \(all[0].source)"
        }
        #expect(Set(loaded.entries.map(\.key)).count == loaded.entries.count)
        #expect(try entry("upstream[0].url", loaded.entries) == "http://gpu:1234 environment OLLAMA_BASE_URL")
        #expect(try entry("upstream[0].model", loaded.entries) == "\"mistral\" environment OLLAMA_MODEL")
        #expect(try entry("upstream[0].kind", loaded.entries) == "\"ollama\" file")
        #expect(try entry("server.listen", loaded.entries) == "[\"[::1]:2\"] command line")
        let llm = ["LLM_SERVICE_URL": "http://llm/query"]
        let builtIn = try ConfigurationLoader.load(file: nil, environment: llm).entries
        #expect(try entry("upstream[0].url", builtIn) == "http://127.0.0.1:11434 default")
        #expect(try entry("upstream[0].max_in_flight", builtIn) == "4 default")
        #expect(try entry("upstream[1].name", builtIn) == "\"backend\" default")
        #expect(try entry("upstream[1].url", builtIn) == "http://llm:80/query environment LLM_SERVICE_URL")
    }

    @Test func secretsAreNotShown() throws {
        let loaded = try load(Self.upstream + "api_key = \"env:KEY\"\n", environment: ["KEY": "s3cret"])
        #expect(loaded.configuration.upstreams[0].apiKey == "s3cret")
        #expect(loaded.entries.contains { $0.key == "upstream[0].api_key" && $0.value == "***" })
        #expect(loaded.warnings.isEmpty)
        let literal = try load(Self.upstream + "api_key = \"s3cret\"\n")
        #expect(literal.warnings.count == 1)
        #expect(!literal.warnings[0].contains("s3cret"))
        // The user that systemd makes for the service cannot read a file of root's with mode 600.
        #expect(literal.warnings[0].contains("use \"env:NAME\", or chmod 600 where the gateway's user owns the file"))
    }

    /// A path that a variable gives was told as a default.
    @Test(arguments: [
        (["STATE_DIRECTORY": "/s:/t", "XDG_STATE_HOME": "/x"], "\"/s/history.sqlite\" environment STATE_DIRECTORY"),
        (["XDG_STATE_HOME": "/x"], "\"/x/webllm-gateway/history.sqlite\" environment XDG_STATE_HOME"),
        (["HOME": "/h"], "\"/h/.local/state/webllm-gateway/history.sqlite\" default"), ([:], "\":memory:\" default"),
    ])
    func theHistorysPlaceIsToldWithItsSource(_ environment: [String: String], _ told: String) throws {
        let entry = try #require(
            try load(Self.upstream, environment: environment).entries.first { $0.key == "history.path" })
        #expect("\(entry.value) \(entry.source)" == told)
    }

    struct Mistake: Sendable, CustomTestStringConvertible {
        var text: String
        var kind: ConfigurationError.Fault.Kind
        var message: String
        var testDescription: String { message }
    }

    static let mistakes: [Mistake] = [
        Mistake(
            text: "[server]\nmax_bdy = \"1MiB\"\n" + upstream, kind: .unknownKey,
            message: "server.max_bdy: unknown key; did you mean max_body?"),
        Mistake(
            text: "[server]\nthreads = \"two\"\n" + upstream, kind: .wrongType,
            message: "server.threads: found a string; accepted: a whole number"),
        Mistake(
            text: "[server]\nthreads = 1000\n" + upstream, kind: .outOfRange,
            message: "server.threads: 1000 is out of range; accepted: 0 to 256"),
        Mistake(
            text: "[server]\nhead_timeout = \"10\"\n" + upstream, kind: .badValue,
            message:
                "server.head_timeout: \"10\" is not accepted; expected a duration such as \"250ms\", \"2s\", \"5m\", "
                + "\"1h\" or \"30d\""),
        Mistake(
            text: "[server]\nhead_timeout = \"2h\"\n" + upstream, kind: .outOfRange,
            message: "server.head_timeout: 2h is out of range; accepted: 100ms to 1h"),
        Mistake(
            text: upstream + upstream, kind: .duplicateName,
            message: "upstream[1].name: \"u\" is the name of another upstream"),
        Mistake(
            text: upstream.replacing("http:", with: "file:"), kind: .badValue,
            message: "upstream[0].url: \"file://127.0.0.1:1\" is not accepted; expected a URL that starts with http:// "
                + "or https://"),
        Mistake(
            text: upstream.replacing("\"ollama\"", with: "\"olama\""), kind: .badValue,
            message: "upstream[0].kind: \"olama\" is not accepted; accepted: ollama, query, openai; "
                + "did you mean \"ollama\"?"),
        Mistake(
            text: "[[upstream]]\nname = \"u\"\nkind = \"ollama\"\n", kind: .missingKey,
            message: "upstream[0].url: missing; accepted: an http or https URL"),
        Mistake(text: "", kind: .missingKey, message: "upstream: missing; accepted: at least one [[upstream]] table"),
        Mistake(
            text: upstream + "api_key = \"env:NO_SUCH\"\n", kind: .badValue,
            message: "upstream[0].api_key: the environment has no NO_SUCH"),
        Mistake(
            text: "[history]\nretention = \"3651d\"\n" + upstream, kind: .outOfRange,
            message: "history.retention: 3651d is out of range; accepted: 1m to 3650d"),
        Mistake(
            text: "[server]\nmax_body = \"9000000000GiB\"\n" + upstream, kind: .badValue,
            message: "server.max_body: \"9000000000GiB\" is not accepted; expected a size of less than 8589934592GiB"),
        Mistake(
            text: "[server]\nlisten = [\"[::1]:80\", \"[0::1]:80\"]\n" + upstream, kind: .duplicateName,
            message: "server.listen: \"[::1]:80\" is there twice"),
        Mistake(
            text: "[server]\nlisten = [\"127.0.0.1:8001\"]\n" + upstream, kind: .duplicateName,
            message: "admin.listen: \"127.0.0.1:8001\" is there twice"),
        Mistake(
            text: upstream + "[[model]]\nid = \"m\"\n[[model]]\nid = \"n\"\nkey = \"m\"\n", kind: .duplicateName,
            message: "model[1].key: \"m\" is the key of another model"),
        Mistake(
            text: upstream + "[[model]]\nid = \"m\"\nupstream_models = { v = \"x\" }\n", kind: .badValue,
            message: "model[0].upstream_models.v: no upstream has this name; did you mean u?"),
        Mistake(
            text: "[server]\nhead_timeout = 10\n" + upstream, kind: .wrongType,
            message: "server.head_timeout: found a whole number; accepted: a duration such as \"10s\""),
        Mistake(
            text: "[server]\nmax_body = 4096\n" + upstream, kind: .wrongType,
            message: "server.max_body: found a whole number; accepted: a size such as \"4MiB\""),
        Mistake(
            text: upstream.replacing("\"http://127.0.0.1:1\"", with: "1"), kind: .wrongType,
            message: "upstream[0].url: found a whole number; accepted: an http or https URL"),
        Mistake(
            text: "[server]\nlisten = [\"127.0.0.1:80\", 1]\n" + upstream, kind: .wrongType,
            message: "server.listen[1]: found a whole number; accepted: a string"),
        Mistake(
            text: "[server]\nlisten = [true]\n" + upstream, kind: .wrongType,
            message: "server.listen[0]: found true or false; accepted: a string"),
        Mistake(
            text: upstream + "[[model]]\nid = \"m\"\nupstream_models = { u = 1 }\n", kind: .wrongType,
            message: "model[0].upstream_models.u: found a whole number; accepted: a string"),
        Mistake(
            text: upstream + "api_key = \"env:\"\n", kind: .badValue,
            message: "upstream[0].api_key: env: needs the name of a variable"),
        Mistake(
            text: "[history]\npath = \"~/h.sqlite\"\n" + upstream, kind: .badValue,
            message: "history.path: \"~/h.sqlite\" is not accepted; accepted: a path without ~, which is not "
                + "expanded"),
        Mistake(
            text: upstream.replacing("\"ollama\"", with: "\"query\"") + "warm = { keep_alive = \"5m\" }\n",
            kind: .badValue,
            message: "upstream[0].warm.keep_alive: only upstreams of kind \"ollama\" can load models"),
        Mistake(
            text: upstream.replacing("\"ollama\"", with: "\"openai\"") + "warm = { models = [\"m\"] }\n",
            kind: .badValue,
            message: "upstream[0].warm.models: only upstreams of kind \"ollama\" can load models"),
        Mistake(
            text: "[server]\nlisten = [\"0.0.0.0:8001\"]\n" + upstream, kind: .duplicateName,
            message:
                "admin.listen: \"0.0.0.0:8001\" of server.listen includes \"127.0.0.1:8001\": leave out one, or "
                + "give it another port"),
        Mistake(
            text: "[admin]\nallowed_hosts = [\"ops.example:8001\"]\n" + upstream, kind: .badValue,
            message:
                "admin.allowed_hosts: \"ops.example:8001\" is not accepted; accepted: a host name or address "
                + "without scheme, port and path, such as \"ops.example\""),
        Mistake(
            text: "[admin]\nallowed_origins = [\"https://ops.example:443\"]\n" + upstream, kind: .badValue,
            message: "admin.allowed_origins: \"https://ops.example:443\" is not accepted; accepted: https://HOST or "
                + "http://HOST:PORT, as browsers send it: without a path, and without the scheme's own port"),
    ]

    @Test(arguments: mistakes)
    func eachMistakeHasItsMessage(_ mistake: Mistake) throws {
        do {
            _ = try load(mistake.text)
            Issue.record("accepted")
        } catch ConfigurationError.faults(_, let faults) {
            #expect(faults.map(\.description) == [mistake.message])
            #expect(faults.map(\.kind) == [mistake.kind])
        }
    }

    @Test func allMistakesAreToldAtOnce() throws {
        do {
            _ = try load("[server]\nthreads = -1\ncurl_loops = 17\n[log]\nlevel = \"loud\"\n" + Self.upstream)
            Issue.record("accepted")
        } catch ConfigurationError.faults(_, let faults) {
            #expect(faults.map(\.key) == ["server.threads", "server.curl_loops", "log.level"])
        }
    }

    @Test func syntaxErrorsTellLineAndColumn() throws {
        do {
            _ = try load("[server]\nthreads = = 1\n")
            Issue.record("accepted")
        } catch ConfigurationError.syntax(_, let line, _, _) {
            #expect(line == 2)
        }
        do {
            _ = try load("x = \"\"\"a \\\n b\"\"\"\n[server]\n[server]\n")
            Issue.record("accepted")
        } catch ConfigurationError.syntax(_, let line, _, _) {
            #expect(line == 4)
        }
    }

    /// What was behind a NUL was lost without a word.
    @Test(arguments: [
        ("[log]\nlevel = \"debug\"\n\0[bogus]\n", 3, 1), ("# a\0b\n", 1, 4), ("x = 'a\0b'\n", 1, 7),
        (#"x = "a\"# + "\0", 1, 8), (#"x = "/a\u0000b""#, 1, 8), (#"x = "/a\U00000000b""#, 1, 8),
        (#"x = "\\\u0000""#, 1, 8), ("x = \"\"\"\n/a\\u0000b\"\"\"\n", 2, 3), (#"["server\u0000x"]"#, 1, 9),
        (#"[[ "a\u0000" ]]"#, 1, 6), (#""a\u0000b" = 1"#, 1, 3), (#"x = { "a\u0000" = 1 }"#, 1, 9),
        (#"[a] # "\#n"b\u0000" = 1"#, 2, 3),
    ])
    func aNULIsRefused(_ text: String, _ line: Int, _ column: Int) {
        do {
            _ = try load(text)
            Issue.record("accepted")
        } catch ConfigurationError.syntax(_, let foundLine, let foundColumn, let reason) {
            #expect(foundLine == line && foundColumn == column, "\(foundLine):\(foundColumn)")
            #expect(reason.contains("NUL"))
        } catch {
            Issue.record("\(error)")
        }
    }

    @Test(arguments: [
        (#"'/a\u0000b'"#, #"/a\u0000b"#), (#""/a\\u0000b""#, #"/a\u0000b"#), (#""/a\u0001b""#, "/a\u{1}b"),
        (#""/a" # \u0000"#, "/a"),
    ])
    func whatOnlyLooksLikeANULIsAccepted(_ text: String, _ path: String) throws {
        #expect(try load("[history]\npath = \(text)\n" + Self.upstream).configuration.history.path == path)
    }

    /// `log` was named for a change of `log.access`, or of one of several keys.
    @Test(arguments: [
        ("[log]\nlevel = \"debug\"", ["log.level"]), ("[log]\nformat = \"logfmt\"", ["log.format"]),
        ("[log]\naccess = false", []), ("[history]\npath = \"/h\"", ["history.path"]),
        ("[history]\nmax_rows = 5\nretention = \"1d\"", ["history.max_rows", "history.retention"]),
        ("[history]\nstore_text = false", ["history.store_text"]), ("[admin]\nlisten = []", ["admin.listen"]),
        ("[admin]\nallowed_hosts = [\"a\"]", []), ("[routing]\npolicy = \"fastest\"", []),
        (
            "[server]\nlisten = [\"[::1]:1\"]\nthreads = 3\ncurl_loops = 2\nmax_body = \"1MiB\"",
            ["server.listen", "server.threads", "server.curl_loops"]
        ),
    ])
    func theKeysThatNeedARestart(_ change: String, _ keys: [String]) throws {
        let old = try load(Self.upstream).configuration
        #expect(try load(change + "\n" + Self.upstream).configuration.settingsThatNeedRestart(from: old) == keys)
    }

    @Test func filesThatCannotBeRead() {
        #expect(throws: ConfigurationError.missingFile(path: "/no/such/file")) {
            try ConfigurationLoader.load(file: "/no/such/file", environment: [:])
        }
        #expect(throws: ConfigurationError.self) { try ConfigurationLoader.load(file: "/tmp", environment: [:]) }
    }

    @Test(arguments: [
        ("http://user:s3cret@h/", "\"http://***@h/\""), ("user:s3cret@h:1", "\"***@h:1\""),
        ("https://h/v1?key=s3cret", "\"https://h/v1?***\""), ("https://h/#s3cret@x", "\"https://***\""),
        ("http://user:s3cret#s3cret@h/", "\"http://***\""), ("http://user:s3cret?@h/", "\"http://***\""),
        ("user:s3cret#@h", "\"***\""), ("http://user:p@h/?s3cret", "\"http://***@h/?***\""),
    ]) func aSecretInAnAddressIsNotShown(_ url: String, _ shown: String) {
        let text = "[[upstream]]\nname = \"u\"\nkind = \"ollama\"\nurl = \"\(url)\"\n"
        do {
            _ = try load(text)
            Issue.record("it was accepted")
        } catch {
            #expect("\(error)".contains(shown))
            #expect(!"\(error)".contains("s3cret"))
        }
    }
}
