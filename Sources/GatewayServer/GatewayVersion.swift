/// What this build calls itself: on the command line, to operators and in the description of its API.
package enum GatewayVersion {
    package static let current = "0.3.0"
}
