/// What Swift cannot say of VFIO (linux/vfio.h): the numbers of its requests, ioctl(2) itself, an access to a region that is
/// not or only partly mapped, and the answer to a mapped access that finds no device.
#pragma once

#include <linux/vfio.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

static const unsigned long cvfio_get_api_version = VFIO_GET_API_VERSION;
static const unsigned long cvfio_check_extension = VFIO_CHECK_EXTENSION;
static const unsigned long cvfio_set_iommu = VFIO_SET_IOMMU;
static const unsigned long cvfio_group_get_status = VFIO_GROUP_GET_STATUS;
static const unsigned long cvfio_group_set_container = VFIO_GROUP_SET_CONTAINER;
static const unsigned long cvfio_group_get_device_fd = VFIO_GROUP_GET_DEVICE_FD;
static const unsigned long cvfio_device_get_info = VFIO_DEVICE_GET_INFO;
static const unsigned long cvfio_device_get_region_info = VFIO_DEVICE_GET_REGION_INFO;
static const unsigned long cvfio_device_get_irq_info = VFIO_DEVICE_GET_IRQ_INFO;
static const unsigned long cvfio_device_set_irqs = VFIO_DEVICE_SET_IRQS;
static const unsigned long cvfio_device_reset = VFIO_DEVICE_RESET;
static const unsigned long cvfio_iommu_get_info = VFIO_IOMMU_GET_INFO;
static const unsigned long cvfio_iommu_map_dma = VFIO_IOMMU_MAP_DMA;
static const unsigned long cvfio_iommu_unmap_dma = VFIO_IOMMU_UNMAP_DMA;

/// ioctl(2) with a pointer: its result, or an errno made negative.
int cvfio_ioctl(int descriptor, unsigned long request, void *_Nullable argument);

/// ioctl(2) with a number: its result, or an errno made negative.
int cvfio_ioctl_number(int descriptor, unsigned long request, unsigned long argument);

/// A part of a region that is mapped.
typedef struct cvfio_area {
    uint64_t offset;
    uint64_t byte_count;
    volatile void *_Nullable base;
} cvfio_area;

/// A region of a device that is reached by mapped areas where there are some, and by calls elsewhere.
typedef struct cvfio_region {
    int descriptor;
    /// Where the region begins in the device's file.
    uint64_t file_offset;
    uint32_t area_count;
    const cvfio_area *_Nullable areas;
} cvfio_region;

/// The load function of a register window whose context is a `cvfio_region`: one access of `width` bytes. All ones when
/// nobody answers. A kernel before 6.11 makes two accesses of 4 bytes of a call with 8.
uint64_t cvfio_region_load(void *_Nullable context, uint64_t offset, uint32_t width);

/// The store function of such a window. A store that nobody takes is lost, as on the bus.
void cvfio_region_store(void *_Nullable context, uint64_t offset, uint32_t width, uint64_t value);

/// Registers a mapping of device memory. vfio-pci answers an access with SIGBUS while the function does not decode memory, and
/// after it is gone: the page is then replaced by one of all ones, which is what the bus answers, and `*lost` is set before.
/// A slot number, or -1 when 64 mappings are registered.
int cvfio_guard_add(void *_Nonnull base, size_t byte_count, bool *_Nonnull lost);

/// Takes a mapping out, before it is unmapped and with no access under way.
void cvfio_guard_remove(int slot);

/// Whether a page was replaced since the last call, which forgets it.
bool cvfio_guard_take_lost(bool *_Nonnull lost);

/// The soft limit of RLIMIT_MEMLOCK in bytes (glibc gives the number a type that Swift does not see); false when there is none.
bool cvfio_locked_memory_limit(uint64_t *_Nonnull limit);
