import GatewayCore

extension GatewayConfiguration {
    /// Keys whose new value takes effect only when the process starts.
    func settingsThatNeedRestart(from old: GatewayConfiguration) -> [String] {
        var keys: [String] = []
        func compare<Value: Equatable>(_ key: String, _ path: KeyPath<GatewayConfiguration, Value>) {
            if self[keyPath: path] != old[keyPath: path] { keys.append(key) }
        }
        compare("server.listen", \.server.listen)
        compare("server.threads", \.server.threads)
        compare("server.curl_loops", \.server.curlLoops)
        compare("admin.listen", \.admin.listen)
        compare("history.path", \.history.path)
        compare("history.max_rows", \.history.maxRows)
        compare("history.retention", \.history.retention)
        compare("history.store_text", \.history.storeText)
        compare("log.level", \.log.level)
        compare("log.format", \.log.format)
        return keys
    }
}
