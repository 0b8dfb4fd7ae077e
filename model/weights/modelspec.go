package weights

// KeyHash is the metadata key of DataHash.
const KeyHash = "modelspec.hash_sha256"
