package server

import (
	"net/http"
	"slices"
)

// A route is a path: what may be done there, and by whom. Trusted clients may do
// everything, restricted ones among them, where it doesn't say otherwise.
type route struct {
	path      string
	untrusted []string // methods that anybody may call; what they get is for the handler to decide
	admin     []string // methods for clients that aren't restricted: they concern the whole server
	server    bool     // it is about the whole server, whatever project is named
	relief    []string // methods that make the server have less to do, and are never too much for it
	several   bool     // it can be about all projects at once
	audit     acts     // what is in the record of what matters for security, by method

	get, put, patch, post, del handler
}

// acts are what the record of what matters for security calls requests, by their method.
type acts map[string]string

// methods gives the handlers of a route, by method.
func (r route) methods() map[string]handler {
	all := map[string]handler{http.MethodGet: r.get, http.MethodPut: r.put, http.MethodPatch: r.patch,
		http.MethodPost: r.post, http.MethodDelete: r.del}
	for method, h := range all {
		if h == nil {
			delete(all, method)
		}
	}
	return all
}

// relieves reports whether what a caller asks for is never too much. A restricted client stops
// its instances like anything else that it does.
func (r route) relieves(method string, c caller) bool {
	return slices.Contains(r.relief, method) && (method == http.MethodDelete || !c.bounded())
}

func (r route) open(method string) bool      { return slices.Contains(r.untrusted, method) }
func (r route) adminOnly(method string) bool { return slices.Contains(r.admin, method) }

func only(methods ...string) []string { return methods }

// routes is the whole API.
func (s *Server) routes() []route {
	const get, put, patch, post, del = http.MethodGet, http.MethodPut, http.MethodPatch, http.MethodPost, http.MethodDelete
	return []route{
		{path: "/", server: true, untrusted: only(get), get: s.root},
		{path: "/1.0", untrusted: only(get), admin: only(put, patch), get: s.getServer, put: s.putServer,
			patch: s.patchServer, audit: acts{put: "config-updated", patch: "config-updated"}},
		{path: "/1.0/events", several: true, get: s.events},
		{path: metricsPath, server: true, untrusted: only(get), get: s.getMetrics}, // which says by itself to whom
		{path: "/1.0/resources", server: true, admin: only(get), get: s.getResources},

		{path: "/1.0/images", several: true, untrusted: only(get, post), get: s.getImages, post: s.postImages},
		{path: "/1.0/images/{name}", untrusted: only(get), get: s.getImage, put: s.putImage, patch: s.patchImage,
			del: s.deleteImage},
		{path: "/1.0/images/{name}/export", untrusted: only(get), get: s.exportImage, post: s.pushImage},
		{path: "/1.0/images/{name}/refresh", post: s.refreshImage},
		{path: "/1.0/images/{name}/secret", post: s.shareImage, audit: acts{post: "image-secret"}},
		{path: "/1.0/images/{name}/verify", post: s.verifyImage},
		{path: "/1.0/images/aliases", get: s.getAliases, post: s.postAliases},
		{path: "/1.0/images/aliases/{name...}", untrusted: only(get), get: s.getAlias, put: s.putAlias, patch: s.patchAlias,
			post: s.postAlias, del: s.deleteAlias},
		{path: "/1.0/kiln/images/usage", get: s.getUsage},
		{path: "/1.0/kiln/alias-history/{name...}", get: s.getHistory, post: s.rollBackAlias},
		{path: "/1.0/kiln/images/{name}/diff/{other}", get: s.getDiff},
		{path: "/1.0/kiln/images/newer", get: s.getNewer},
		{path: "/1.0/kiln/images/prune", post: s.pruneImages},
		{path: "/1.0/kiln/images/{name}/files/{hash}", untrusted: only(get), get: s.getImageFile},
		{path: "/1.0/kiln/images/{name}/files/{hash}/index", untrusted: only(get), get: s.getFileIndex},
		{path: "/1.0/kiln/images/{name}/files/{hash}/patch/{base}", untrusted: only(get), get: s.getPatch},
		{path: "/1.0/kiln/host", server: true, admin: only(get), get: s.examineHost},
		{path: "/1.0/kiln/image-keys", server: true, admin: only(get, put, del), get: s.getImageKeys, put: s.putImageKeys,
			del: s.deleteImageKeys, audit: acts{put: "image-keys-published", del: "image-keys-deleted"}},
		{path: "/1.0/kiln/index-key", server: true, admin: only(get, put, del), get: s.getIndexKey, put: s.putIndexKey,
			del: s.deleteIndexKey, audit: acts{put: "index-key-lent", del: "index-key-deleted"}},
		{path: "/1.0/kiln/mirrors", server: true, admin: only(get, post), get: s.getMirrors, post: s.postMirrors,
			audit: acts{post: "mirror-created"}},
		{path: "/1.0/kiln/scrub", server: true, admin: only(get, post, del), get: s.getScrub, post: s.postScrub,
			del: s.deleteScrub},
		{path: "/1.0/kiln/mirrors/{name}", server: true, admin: only(del, post), post: s.runMirror, del: s.deleteMirror,
			audit: acts{del: "mirror-deleted"}},
		{path: "/1.0/kiln/instances", post: s.receiveInstance},
		{path: "/1.0/kiln/instances/{name}/network", admin: only(get), get: s.explainNetwork},
		{path: "/1.0/kiln/instances/{name}/share", post: s.shareInstance, audit: acts{post: "instance-share"}},
		{path: "/1.0/kiln/instances/{name}/transfer", server: true, untrusted: only(get, del), get: s.getTransfer,
			del: s.endTransfer},
		{path: "/1.0/kiln/instances/{name}/transfer/layers/{id}", server: true, untrusted: only(get),
			get: s.getTransferPart},
		{path: "/1.0/kiln/shutdown", server: true, admin: only(post), relief: only(post), post: s.postShutdown},
		{path: "/1.0/instances", several: true, get: s.getInstances, post: s.postInstances},
		{path: "/1.0/instances/{name}", get: s.getInstance, put: s.putInstance, patch: s.patchInstance, post: s.postInstance,
			del: s.deleteInstance, audit: acts{put: "instance-updated", patch: "instance-updated"}},
		{path: "/1.0/instances/{name}/state", relief: only(put), get: s.getState, put: s.putState},
		{path: "/1.0/instances/{name}/rebuild", post: s.rebuildInstance},
		{path: "/1.0/instances/{name}/exec", post: s.postExec, audit: acts{post: "instance-exec"}},
		{path: "/1.0/instances/{name}/console", get: s.getConsole, post: s.postConsole, del: s.deleteConsole,
			audit: acts{post: "instance-console"}},
		{path: "/1.0/instances/{name}/logs", get: s.getLogs},
		{path: "/1.0/instances/{name}/logs/{file}", get: s.getLog, del: s.deleteLog},
		{path: "/1.0/instances/{name}/files", get: s.getFile, post: s.postFile, del: s.deleteFile,
			audit: acts{get: "instance-file-retrieved", post: "instance-file-pushed", del: "instance-file-deleted"}},
		{path: "/1.0/instances/{name}/sftp", get: s.getSFTP, audit: acts{get: "instance-sftp"}},
		{path: "/1.0/instances/{name}/snapshots", get: s.getSnapshots, post: s.postSnapshots},
		{path: "/1.0/instances/{name}/snapshots/{snap}", get: s.getSnapshot, put: s.putSnapshot, patch: s.putSnapshot,
			post: s.postSnapshot, del: s.deleteSnapshot},
		{path: "/1.0/instances/{name}/backups", get: s.getBackups, post: s.postBackups},
		{path: "/1.0/instances/{name}/backups/{backup}", get: s.getBackup, post: s.postBackup, del: s.deleteBackup},
		{path: "/1.0/instances/{name}/backups/{backup}/export", get: s.exportBackup,
			audit: acts{get: "instance-backup-retrieved"}},
		{path: "/1.0/instances/{name}/metadata", get: s.getMetadata, put: s.putMetadata, patch: s.patchMetadata},
		{path: "/1.0/instances/{name}/metadata/templates", get: s.getTemplates, post: s.postTemplate, put: s.postTemplate,
			del: s.deleteTemplate},

		{path: "/1.0/operations", several: true, get: s.getOperations},
		{path: "/1.0/operations/{id}", server: true, relief: only(del), get: s.getOperation, del: s.deleteOperation},
		{path: "/1.0/operations/{id}/wait", server: true, untrusted: only(get), get: s.waitOperation},
		{path: "/1.0/operations/{id}/websocket", server: true, untrusted: only(get), get: s.connect},

		{path: "/1.0/profiles", several: true, admin: only(post), get: s.getProfiles, post: s.postProfiles,
			audit: acts{post: "profile-created"}},
		{path: "/1.0/profiles/{name}", admin: only(put, patch, post, del), get: s.getProfile, put: s.putProfile,
			patch: s.patchProfile, post: s.postProfile, del: s.deleteProfile,
			audit: acts{put: "profile-updated", patch: "profile-updated", post: "profile-renamed", del: "profile-deleted"}},
		{path: "/1.0/projects", server: true, admin: only(post), get: s.getProjects, post: s.postProjects,
			audit: acts{post: "project-created"}},
		{path: "/1.0/projects/{name}", server: true, admin: only(put, patch, post, del), get: s.getProject, put: s.putProject,
			patch: s.patchProject, post: s.postProject, del: s.deleteProject,
			audit: acts{put: "project-updated", patch: "project-updated", post: "project-renamed", del: "project-deleted"}},
		{path: "/1.0/projects/{name}/state", server: true, get: s.getProjectState},
		{path: "/1.0/networks", server: true, admin: only(post), get: s.getNetworks, post: s.postNetworks},
		{path: "/1.0/networks/{name}", server: true, admin: only(put, patch, post, del), get: s.getNetwork, put: s.putNetwork,
			patch: s.patchNetwork, post: s.postNetwork, del: s.deleteNetwork},
		{path: "/1.0/networks/{name}/forwards", server: true, admin: only(post), get: s.getForwards, post: s.postForwards},
		{path: "/1.0/networks/{name}/forwards/{address}", server: true, admin: only(put, patch, del), get: s.getForward,
			put: s.putForward, patch: s.patchForward, del: s.deleteForward},
		{path: "/1.0/networks/{name}/state", server: true, get: s.getNetworkState},
		{path: "/1.0/networks/{name}/leases", server: true, get: s.getNetworkLeases},
		{path: "/1.0/storage-pools", server: true, get: s.getPools, post: s.notYet},
		{path: "/1.0/storage-pools/{name}", server: true, get: s.getPool},
		{path: "/1.0/storage-pools/{name}/resources", server: true, get: s.getPoolResources},
		{path: "/1.0/storage-pools/{name}/volumes", several: true, get: s.getVolumes, post: s.postVolumes},
		{path: "/1.0/storage-pools/{name}/volumes/{type}", several: true, get: s.getVolumes, post: s.postVolumes},
		{path: "/1.0/storage-pools/{name}/volumes/{type}/{volume}", get: s.getVolume, put: s.putVolume, patch: s.patchVolume,
			post: s.postVolume, del: s.deleteVolume},
		{path: "/1.0/storage-pools/{name}/volumes/{type}/{volume}/state", get: s.getVolumeState},
		{path: "/1.0/storage-pools/{name}/volumes/{type}/{volume}/snapshots", get: s.getVolumeSnapshots,
			post: s.postVolumeSnapshots},
		{path: "/1.0/storage-pools/{name}/volumes/{type}/{volume}/snapshots/{snap}", get: s.getVolumeSnapshot,
			put: s.putVolumeSnapshot, patch: s.putVolumeSnapshot, post: s.postVolumeSnapshot, del: s.deleteVolumeSnapshot},
		{path: "/1.0/storage-pools/{name}/volumes/{type}/{volume}/backups", get: s.getBackups, post: s.postBackups},
		{path: "/1.0/storage-pools/{name}/volumes/{type}/{volume}/backups/{backup}", get: s.getBackup, post: s.postBackup,
			del: s.deleteBackup},
		{path: "/1.0/storage-pools/{name}/volumes/{type}/{volume}/backups/{backup}/export", get: s.exportBackup,
			audit: acts{get: "storage-volume-backup-retrieved"}},
		{path: "/1.0/certificates", server: true, untrusted: only(post), admin: only(get, post), get: s.getCertificates,
			post: s.postCertificates, audit: acts{post: "certificate-created"}},
		{path: "/1.0/certificates/{fingerprint}", server: true, admin: only(get, put, patch, del), relief: only(del),
			get: s.getCertificate, put: s.putCertificate, patch: s.patchCertificate, del: s.deleteCertificate,
			audit: acts{put: "certificate-updated", patch: "certificate-updated", del: "certificate-deleted"}},
		{path: "/1.0/warnings", server: true, admin: only(get), get: s.getWarnings},
		{path: "/1.0/warnings/{id}", server: true, admin: only(get, put, patch, del), get: s.getWarning, put: s.putWarning,
			patch: s.putWarning, del: s.deleteWarning},
		{path: "/internal/ready", server: true, get: s.getReady},
		// What image servers without an API have.
		{path: "/streams/v1/{file}", server: true, untrusted: only(get), get: s.getStreams},
		{path: "/streams/files/{name...}", server: true, untrusted: only(get), get: s.getStreamsFile},
		{path: "/lxd/{name...}", server: true, untrusted: only(get), get: s.getDirect},
		{path: "/i/{name...}", server: true, untrusted: only(get), get: s.getDirect},
	}
}
