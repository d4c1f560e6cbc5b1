import GatewayCore

/// Which keys gateway.conf has, with their ranges.
enum GatewayReader {
    static func read(_ root: TableReader, environment: [String: String]) -> GatewayConfiguration {
        var configuration = GatewayConfiguration()
        configuration.server = server(root.subtable("server"))
        configuration.admin = admin(root.subtable("admin"))
        configuration.webllm = webllm(root.subtable("webllm"))
        configuration.routing = routing(root.subtable("routing"))
        configuration.history = history(root.subtable("history"), environment)
        configuration.log = log(root.subtable("log"))
        configuration.upstreams = (root.tables("upstream") ?? []).compactMap { upstream($0, environment) }
        if let models = root.tables("model") { configuration.models = models.compactMap(model) }
        root.finish()
        return configuration
    }

    private static let hour = Duration.seconds(3600)

    private static func server(_ table: TableReader) -> ServerConfiguration {
        var server = ServerConfiguration()
        server.listen = addresses(table, server.listen)
        if server.listen.isEmpty, !table.hasFault("listen") {
            table.fault(.outOfRange, "listen", "empty; accepted: at least one address")
        }
        server.threads = table.integer("threads", server.threads, in: 0...256)
        server.curlLoops = table.integer("curl_loops", server.curlLoops, in: 0...ServerConfiguration.maxCurlLoops)
        server.maxBody = table.size("max_body", server.maxBody, in: 1024...1 << 30)
        server.maxBodyMemory = table.size("max_body_memory", server.maxBodyMemory, in: 1024...1 << 40)
        server.maxHead = table.size("max_head", server.maxHead, in: 1024...64 << 10)
        server.maxConnections = table.integer("max_connections", server.maxConnections, in: 1...1_000_000)
        server.maxConnectionsPerAddress = table.integer(
            "max_connections_per_address", server.maxConnectionsPerAddress, in: 1...1_000_000)
        server.maxRequestsPerConnection = table.integer(
            "max_requests_per_connection", server.maxRequestsPerConnection, in: 1...1_000_000_000)
        let timeouts = Duration.milliseconds(100)...hour
        server.headTimeout = table.duration("head_timeout", server.headTimeout, in: timeouts)
        server.keepAliveTimeout = table.duration("keep_alive_timeout", server.keepAliveTimeout, in: timeouts)
        server.bodyIdleTimeout = table.duration("body_idle_timeout", server.bodyIdleTimeout, in: timeouts)
        server.bodyTimeout = table.duration("body_timeout", server.bodyTimeout, in: timeouts)
        server.clientStallTimeout = table.duration("client_stall_timeout", server.clientStallTimeout, in: timeouts)
        server.totalTimeout = table.duration("total_timeout", server.totalTimeout, in: .milliseconds(100)...(hour * 24))
        let heartbeat = table.duration("heartbeat", .zero, in: .zero...hour)
        server.heartbeat = heartbeat > .zero ? heartbeat : nil
        server.metrics = table.bool("metrics", server.metrics)
        server.drainTimeout = table.duration("drain_timeout", server.drainTimeout, in: .zero...hour)
        table.finish()
        return server
    }

    private static func addresses(_ table: TableReader, _ value: [ListenAddress]) -> [ListenAddress] {
        var addresses: [ListenAddress] = []
        for text in table.strings("listen", value.map { $0.description }) {
            do throws(TextFault) {
                addresses.append(try .parse(text))
            } catch {
                table.fault(.badValue, "listen", "\"\(text)\" is not accepted; expected \(error)")
            }
        }
        return addresses
    }

    private static func admin(_ table: TableReader) -> AdminConfiguration {
        var admin = AdminConfiguration()
        admin.listen = addresses(table, admin.listen)
        admin.allowedHosts = table.strings("allowed_hosts", admin.allowedHosts).map { $0.lowercased() }
        for host in admin.allowedHosts where !isHost(host) {
            table.fault(
                .badValue, "allowed_hosts",
                "\"\(host)\" is not accepted; accepted: a host name or address without scheme, port and path, such as "
                    + "\"ops.example\"")
        }
        admin.allowedOrigins = table.strings("allowed_origins", admin.allowedOrigins).map { $0.lowercased() }
        for origin in admin.allowedOrigins where !isOrigin(origin) {
            table.fault(
                .badValue, "allowed_origins",
                "\"\(origin.withoutSecrets)\" is not accepted; accepted: https://HOST or http://HOST:PORT, as browsers "
                    + "send it: without a path, and without the scheme's own port")
        }
        if let text = table.optionalString("token_hash", isSecret: true) {
            admin.tokenDigest = tokenDigest(text)
            if admin.tokenDigest == nil {
                table.fault(
                    .badValue, "token_hash",
                    "accepted: \"sha256:\" and 64 hexadecimal digits, as `webllm-gateway token` prints them")
            }
        }
        table.finish()
        return admin
    }

    /// As a Host header has it, but for the port.
    private static func isHost(_ text: String) -> Bool {
        if text.hasPrefix("["), text.hasSuffix("]") { return NumericAddress.isIPv6(text.dropFirst().dropLast()) }
        return (1...253).contains(text.utf8.count) && text.utf8.allSatisfy { isNameByte($0) }
    }

    /// As an Origin header has it: no browser sends a path, or the port that the scheme means anyway (RFC 6454, 6.2).
    private static func isOrigin(_ text: String) -> Bool {
        guard let url = try? UpstreamURL.parse(text) else { return false }
        let ownPort = url.isTLS ? ":443" : ":80"
        return text == (url.origin.hasSuffix(ownPort) ? String(url.origin.dropLast(ownPort.count)) : url.origin)
    }

    private static func tokenDigest(_ text: String) -> [UInt8]? {
        guard text.hasPrefix("sha256:") else { return nil }
        let digits = Array(text.utf8.dropFirst(7))
        guard digits.count == 64 else { return nil }
        var bytes: [UInt8] = []
        for at in stride(from: 0, to: 64, by: 2) {
            guard let high = digits[at].hexValue, let low = digits[at + 1].hexValue else { return nil }
            bytes.append(high << 4 | low)
        }
        return bytes
    }

    private static func webllm(_ table: TableReader) -> WebLLMConfiguration {
        var webllm = WebLLMConfiguration()
        webllm.defaultModel = modelName(table, "default_model", webllm.defaultModel) ?? webllm.defaultModel
        webllm.systemPrompt = table.string("system_prompt", webllm.systemPrompt)
        webllm.maxPromptCharacters = table.integer(
            "max_prompt_characters", webllm.maxPromptCharacters, in: 1...10_000_000)
        webllm.maxBatch = table.integer("max_batch", webllm.maxBatch, in: 1...10_000)
        webllm.fallbackMessage = table.string("fallback_message", webllm.fallbackMessage)
        table.finish()
        return webllm
    }

    private static func routing(_ table: TableReader) -> RoutingConfiguration {
        var routing = RoutingConfiguration()
        routing.policy = table.choice("policy", routing.policy) ?? routing.policy
        routing.maxAttempts = table.integer("max_attempts", routing.maxAttempts, in: 1...10)
        routing.retryRatio = table.number("retry_ratio", routing.retryRatio, in: 0...1)
        routing.retryMinimum = table.integer("retry_minimum", routing.retryMinimum, in: 0...10_000)
        routing.slowStart = table.duration("slow_start", routing.slowStart, in: .zero...hour)
        routing.allowPin = table.bool("allow_pin", routing.allowPin)
        table.finish()
        return routing
    }

    /// Where systemd wants state (StateDirectory=), else where the XDG base directory specification wants a user's; nil
    /// where there is neither, and the history stays in memory.
    private static func defaultHistoryPath(
        _ environment: [String: String]
    ) -> (path: String, source: ConfigurationSource)? {
        let file = "history.sqlite"
        if let folder = environment["STATE_DIRECTORY"]?.split(separator: ":").first {
            return ("\(folder)/\(file)", .environment("STATE_DIRECTORY"))
        }
        if let folder = environment["XDG_STATE_HOME"], folder.hasPrefix("/") {
            return ("\(folder)/webllm-gateway/\(file)", .environment("XDG_STATE_HOME"))
        }
        guard let home = environment["HOME"], home.hasPrefix("/") else { return nil }
        return ("\(home)/.local/state/webllm-gateway/\(file)", .builtIn)
    }

    private static func history(_ table: TableReader, _ environment: [String: String]) -> HistoryConfiguration {
        var history = HistoryConfiguration()
        let path = table.string("path", "")
        if path.isEmpty {
            let found = defaultHistoryPath(environment)
            history.path = found?.path
            table.note("path", found.map { "\"\($0.path)\"" } ?? "\":memory:\"", found?.source ?? .builtIn)
        } else {
            history.path = path == ":memory:" ? nil : path
        }
        if path.hasPrefix("~") {
            table.fault(
                .badValue, "path", "\"\(path)\" is not accepted; accepted: a path without ~, which is not expanded")
        }
        history.maxRows = table.integer("max_rows", history.maxRows, in: 0...1_000_000_000)
        history.retention = table.duration("retention", history.retention, in: .seconds(60)...(hour * 24 * 3650))
        history.storeText = table.bool("store_text", history.storeText)
        table.finish()
        return history
    }

    private static func log(_ table: TableReader) -> LogConfiguration {
        var log = LogConfiguration()
        log.level = table.choice("level", log.level) ?? log.level
        log.format = table.choice("format", log.format) ?? log.format
        log.access = table.bool("access", log.access)
        table.finish()
        return log
    }

    static func upstream(_ table: TableReader, _ environment: [String: String]) -> UpstreamConfiguration? {
        let name = table.optionalString("name")
        if let name, !isName(name) {
            table.fault(.badValue, "name", "\"\(name)\" is not accepted; accepted: 1 to 64 of A-Z a-z 0-9 . _ -")
        }
        if name == nil { table.fault(.missingKey, "name", "missing; accepted: 1 to 64 of A-Z a-z 0-9 . _ -") }
        let kind: UpstreamKind? = table.choice("kind", nil)
        let fallbackURL = UpstreamURL(host: "", port: 80)
        let accepts = "an http or https URL"
        let url = table.parsed("url", fallbackURL, accepts: accepts, shows: \.text) { (text) throws(TextFault) in
            try UpstreamURL.parse(text)
        }
        if url.host.isEmpty, !table.hasFault("url") {
            table.fault(.missingKey, "url", "missing; accepted: \(accepts)")
        }
        var upstream = UpstreamConfiguration(name: name ?? "", kind: kind ?? .ollama, url: url)
        upstream.model = modelName(table, "model", nil)
        upstream.apiKey = apiKey(table, environment)
        upstream.maxInFlight = table.integer("max_in_flight", upstream.maxInFlight, in: 1...10_000)
        upstream.maxQueue = table.integer("max_queue", upstream.maxQueue, in: 0...100_000)
        upstream.queueTimeout = table.duration("queue_timeout", upstream.queueTimeout, in: .milliseconds(10)...hour)
        upstream.idempotent = table.bool("idempotent", upstream.idempotent)
        let timeouts = table.subtable("timeouts")
        let range = Duration.milliseconds(10)...(hour * 24)
        upstream.timeouts.connect = timeouts.duration("connect", upstream.timeouts.connect, in: range)
        upstream.timeouts.firstToken = timeouts.duration("first_token", upstream.timeouts.firstToken, in: range)
        upstream.timeouts.idle = timeouts.duration("idle", upstream.timeouts.idle, in: range)
        upstream.timeouts.firstTokenCold = timeouts.duration(
            "first_token_cold", upstream.timeouts.firstTokenCold, in: range)
        timeouts.finish()
        upstream.weight = table.integer("weight", upstream.weight, in: 1...1000)
        upstream.breaker = breaker(table.subtable("breaker"))
        upstream.warm = warm(table.subtable("warm"), kind)
        let health = table.subtable("health")
        upstream.health.interval = health.duration(
            "interval", upstream.health.interval, in: .milliseconds(50)...hour)
        upstream.health.timeout = health.duration("timeout", upstream.health.timeout, in: .milliseconds(50)...hour)
        upstream.health.fall = health.integer("fall", upstream.health.fall, in: 1...1000)
        upstream.health.rise = health.integer("rise", upstream.health.rise, in: 1...1000)
        health.finish()
        table.finish()
        return kind == nil ? nil : upstream
    }

    private static func breaker(_ table: TableReader) -> BreakerConfiguration {
        var breaker = BreakerConfiguration()
        breaker.failures = table.integer("failures", breaker.failures, in: 1...1000)
        breaker.ratio = table.number("ratio", breaker.ratio, in: 0.01...1)
        breaker.minRequests = table.integer("min_requests", breaker.minRequests, in: 1...100_000)
        let range = Duration.milliseconds(50)...(hour * 24)
        breaker.window = table.duration("window", breaker.window, in: range)
        breaker.open = table.duration("open", breaker.open, in: range)
        breaker.maxOpen = table.duration("max_open", breaker.maxOpen, in: range)
        table.finish()
        return breaker
    }

    private static func warm(_ table: TableReader, _ kind: UpstreamKind?) -> WarmConfiguration {
        var warm = WarmConfiguration()
        warm.models = table.strings("models", warm.models)
        for name in warm.models where !isModelName(name) { table.fault(.badValue, "models", modelNameRule(name)) }
        warm.keepAlive = table.optionalString("keep_alive")
        if let kind, kind != .ollama {
            let detail = "only upstreams of kind \"ollama\" can load models"
            if !warm.models.isEmpty { table.fault(.badValue, "models", detail) }
            if warm.keepAlive != nil { table.fault(.badValue, "keep_alive", detail) }
        }
        if let text = warm.keepAlive, Int(text) == nil, (try? DurationText.parse(text)) == nil {
            table.fault(
                .badValue, "keep_alive", "\"\(text)\" is not accepted; expected a duration such as \"30m\", or \"-1\"")
        }
        table.finish()
        return warm
    }

    /// A literal key, or `env:NAME` for one that lies in the environment.
    private static func apiKey(_ table: TableReader, _ environment: [String: String]) -> String? {
        guard let text = table.optionalString("api_key", isSecret: true) else { return nil }
        var key = text
        if text.hasPrefix("env:") {
            let name = String(text.dropFirst(4))
            guard !name.isEmpty else {
                table.fault(.badValue, "api_key", "env: needs the name of a variable")
                return nil
            }
            guard let value = environment[name], !value.isEmpty else {
                table.fault(.badValue, "api_key", "the environment has no \(name)")
                return nil
            }
            key = value
        } else {
            table.log.holdsKeys = true
        }
        guard key.utf8.allSatisfy({ $0 >= 0x21 && $0 < 0x7F }), !key.isEmpty else {
            table.fault(.badValue, "api_key", "accepted: visible ASCII characters without spaces")
            return nil
        }
        return key
    }

    private static func model(_ table: TableReader) -> ModelConfiguration? {
        let id = modelName(table, "id", nil)
        if id == nil { table.fault(.missingKey, "id", "missing; accepted: a model name") }
        let key = modelName(table, "key", nil)
        let upstreamModels = table.stringTable("upstream_models")
        for (upstream, name) in upstreamModels where !isModelName(name) {
            table.fault(.badValue, "upstream_models.\(upstream)", modelNameRule(name))
        }
        let size = table.number("size_gb", 0, in: 0...100_000)
        let vram = table.number("vram_required_gb", 0, in: 0...100_000)
        let recommended = table.bool("recommended", false)
        table.finish()
        guard let id else { return nil }
        return ModelConfiguration(
            id: id, key: key, upstreamModels: upstreamModels, sizeGB: size, vramRequiredGB: vram,
            recommended: recommended)
    }

    /// What concerns several tables at once.
    static func checkWhole(_ configuration: GatewayConfiguration, log: TableReader.Log) {
        func fault(_ kind: ConfigurationError.Fault.Kind, _ key: String, _ detail: String) {
            log.faults.append(.init(kind: kind, key: key, detail: detail))
        }
        var listeners: [(key: String, address: ListenAddress)] = []
        for (key, listen) in [
            ("server.listen", configuration.server.listen), ("admin.listen", configuration.admin.listen),
        ] {
            for address in listen where !address.isChosenBySystem {
                if listeners.contains(where: { $0.address == address }) {
                    fault(.duplicateName, key, "\"\(address)\" is there twice")
                } else {
                    listeners.append((key, address))
                }
            }
        }
        for (key, address) in listeners {
            guard let wider = listeners.first(where: { $0.address.includes(address) }) else { continue }
            fault(
                .duplicateName, key,
                "\"\(wider.address)\" of \(wider.key) includes \"\(address)\": leave out one, or give it another port")
        }
        if configuration.upstreams.isEmpty, !log.faults.contains(where: { $0.key.hasPrefix("upstream") }) {
            fault(.missingKey, "upstream", "missing; accepted: at least one [[upstream]] table")
        }
        if configuration.upstreams.count > 64 { fault(.outOfRange, "upstream", "more than 64 upstreams") }
        var names: Set<String> = []
        for (index, upstream) in configuration.upstreams.enumerated() where !names.insert(upstream.name).inserted {
            fault(.duplicateName, "upstream[\(index)].name", "\"\(upstream.name)\" is the name of another upstream")
        }
        var ids: Set<String> = []
        var keys: Set<String> = []
        for (index, model) in configuration.models.enumerated() {
            let isKeyNew = keys.insert(model.key).inserted
            if !ids.insert(model.id).inserted {
                fault(.duplicateName, "model[\(index)].id", "\"\(model.id)\" is the id of another model")
            } else if !isKeyNew {
                fault(.duplicateName, "model[\(index)].key", "\"\(model.key)\" is the key of another model")
            }
            for name in model.upstreamModels.keys.sorted() where !names.contains(name) {
                let hint = NearestWord.suggest(name, among: names).map { "; did you mean \($0)?" } ?? ""
                fault(.badValue, "model[\(index)].upstream_models.\(name)", "no upstream has this name\(hint)")
            }
        }
    }

    // MARK: Names

    private static func modelName(_ table: TableReader, _ key: String, _ value: String?) -> String? {
        let text = value.map { table.string(key, $0) } ?? table.optionalString(key)
        guard let text else { return nil }
        if !isModelName(text) { table.fault(.badValue, key, modelNameRule(text)) }
        return text
    }

    static func modelNameRule(_ name: String) -> String {
        "\"\(name)\" is not accepted; accepted: 1 to 200 of A-Z a-z 0-9 . _ : / @ -"
    }

    private static func isName(_ text: String) -> Bool {
        (1...64).contains(text.utf8.count) && text.utf8.allSatisfy { isNameByte($0) }
    }

    static func isModelName(_ text: String) -> Bool {
        (1...200).contains(text.utf8.count)
            && text.utf8.allSatisfy {
                isNameByte($0) || $0 == UInt8(ascii: ":") || $0 == UInt8(ascii: "/") || $0 == UInt8(ascii: "@")
            }
    }

    private static func isNameByte(_ byte: UInt8) -> Bool {
        switch byte {
        case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "."), UInt8(ascii: "_"), UInt8(ascii: "-"): true
        default: false
        }
    }
}
