package server

import "net/http"

const defaultProject = "default"

// routes is the whole API.
func (s *Server) routes() map[string]map[string]handler {
	type m = map[string]handler
	const get, put, patch, post, del = http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodPost, http.MethodDelete
	return map[string]m{
		"/":           {get: s.root},
		"/1.0":        {get: s.getServer, put: s.putServer, patch: s.patchServer},
		"/1.0/events": {get: s.events},

		"/1.0/images": {get: s.getImages, post: s.postImages},
		"/1.0/images/{name}": {get: s.getImage, put: s.putImage, patch: s.patchImage,
			del: s.deleteImage},
		"/1.0/images/{name}/export":  {get: s.exportImage, post: s.pushImage},
		"/1.0/images/{name}/refresh": {post: s.refreshImage},
		"/1.0/images/{name}/secret":  {post: s.shareImage},
		"/1.0/images/{name}/verify":  {post: s.verifyImage},
		"/1.0/images/aliases":        {get: s.getAliases, post: s.postAliases},
		"/1.0/images/aliases/{name...}": {get: s.getAlias, put: s.putAlias, patch: s.patchAlias,
			post: s.postAlias, del: s.deleteAlias},
		"/1.0/kiln/images/usage":                            {get: s.getUsage},
		"/1.0/kiln/alias-history/{name...}":                 {get: s.getHistory, post: s.rollBackAlias},
		"/1.0/kiln/images/{name}/diff/{other}":              {get: s.getDiff},
		"/1.0/kiln/images/prune":                            {post: s.pruneImages},
		"/1.0/kiln/images/{name}/files/{hash}":              {get: s.getImageFile},
		"/1.0/kiln/images/{name}/files/{hash}/index":        {get: s.getFileIndex},
		"/1.0/kiln/images/{name}/files/{hash}/patch/{base}": {get: s.getPatch},
		"/1.0/kiln/mirrors":                                 {get: s.getMirrors, post: s.postMirrors},
		"/1.0/kiln/mirrors/{name}":                          {post: s.runMirror, del: s.deleteMirror},
		"/1.0/kiln/instances":                               {post: s.receiveInstance},
		"/1.0/kiln/instances/{name}/share":                  {post: s.shareInstance},
		"/1.0/kiln/instances/{name}/transfer":               {get: s.getTransfer, del: s.endTransfer},
		"/1.0/kiln/instances/{name}/transfer/layers/{id}":   {get: s.getTransferPart},
		"/1.0/kiln/shutdown":                                {post: s.postShutdown},
		"/1.0/instances":                                    {get: s.getInstances, post: s.postInstances},
		"/1.0/instances/{name}": {get: s.getInstance, put: s.putInstance, patch: s.patchInstance,
			post: s.postInstance, del: s.deleteInstance},
		"/1.0/instances/{name}/state":       {get: s.getState, put: s.putState},
		"/1.0/instances/{name}/rebuild":     {post: s.rebuildInstance},
		"/1.0/instances/{name}/exec":        {post: s.postExec},
		"/1.0/instances/{name}/console":     {get: s.getConsole, post: s.notYet, del: s.notYet},
		"/1.0/instances/{name}/logs":        {get: s.getLogs},
		"/1.0/instances/{name}/logs/{file}": {get: s.getLog},
		"/1.0/instances/{name}/files":       {get: s.notYet, post: s.notYet, del: s.notYet},
		"/1.0/instances/{name}/snapshots":   {get: s.getSnapshots, post: s.postSnapshots},
		"/1.0/instances/{name}/snapshots/{snap}": {get: s.getSnapshot, put: s.putSnapshot, patch: s.putSnapshot,
			post: s.postSnapshot, del: s.deleteSnapshot},
		"/1.0/instances/{name}/backups":  {get: s.emptyOf, post: s.notYet},
		"/1.0/instances/{name}/metadata": {get: s.getMetadata, put: s.putMetadata, patch: s.patchMetadata},
		"/1.0/instances/{name}/metadata/templates": {get: s.getTemplates, post: s.postTemplate, put: s.postTemplate,
			del: s.deleteTemplate},

		"/1.0/operations":                {get: s.getOperations},
		"/1.0/operations/{id}":           {get: s.getOperation, del: s.deleteOperation},
		"/1.0/operations/{id}/wait":      {get: s.waitOperation},
		"/1.0/operations/{id}/websocket": {get: s.connect},

		"/1.0/profiles": {get: s.getProfiles, post: s.postProfiles},
		"/1.0/profiles/{name}": {get: s.getProfile, put: s.putProfile, patch: s.patchProfile,
			post: s.postProfile, del: s.deleteProfile},
		"/1.0/projects":                       {get: s.getProjects, post: s.notYet},
		"/1.0/projects/{name}":                {get: s.getProject},
		"/1.0/networks":                       {get: s.getNetworks, post: s.notYet},
		"/1.0/networks/{name}":                {get: s.getNetwork},
		"/1.0/storage-pools":                  {get: s.getPools, post: s.notYet},
		"/1.0/storage-pools/{name}":           {get: s.getPool},
		"/1.0/storage-pools/{name}/resources": {get: s.getPoolResources},
		"/1.0/certificates":                   {get: s.getCertificates, post: s.postCertificates},
		"/1.0/certificates/{fingerprint}": {get: s.getCertificate, put: s.putCertificate, patch: s.patchCertificate,
			del: s.deleteCertificate},
		"/1.0/warnings": {get: s.emptyList},

		// What image servers without an API have.
		"/streams/v1/{file}":       {get: s.getStreams},
		"/streams/files/{name...}": {get: s.getStreamsFile},
		"/lxd/{name...}":           {get: s.getDirect},
		"/i/{name...}":             {get: s.getDirect},
	}
}
